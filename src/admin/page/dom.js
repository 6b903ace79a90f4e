// Small helpers for the page. Text that comes from outside becomes text nodes only, never markup.

export const $ = (id) => document.getElementById(id);

/** An element: `h('p.faint', { title: 'x' }, 'text', child)`. Functions become listeners, everything else attributes. */
export function h(kind, attributes = {}, ...children) {
  const [name, ...classes] = kind.split('.');
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(' ');
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === 'function') element.addEventListener(key, value);
    else if (value === true) element.setAttribute(key, '');
    else if (value !== undefined && value !== null && value !== false) element.setAttribute(key, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const SVG = 'http://www.w3.org/2000/svg';

export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Sets text only where it differs, so that nothing is laid out in vain. */
export function say(element, text) {
  if (element.firstChild?.nodeType === 3 && !element.firstChild.nextSibling) {
    if (element.firstChild.data !== text) element.firstChild.data = text;
  } else if (element.textContent !== text) element.textContent = text;
}

// Control characters, and those that turn the direction of what follows or cannot be seen.
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/** A key or an owner as it is shown: what cannot be seen is spelled out. */
export function shown(value) {
  if (value === null || value === undefined) return '';
  const text = typeof value === 'string' ? value : [...bytesOf(value)].map(byteShown).join('');
  return text.replace(HIDDEN, (letter) => `\\u{${letter.codePointAt(0).toString(16)}}`);
}

const byteShown = (byte) =>
  byte >= 32 && byte < 127 && byte !== 92 ? String.fromCharCode(byte) : `\\x${byte.toString(16).padStart(2, '0')}`;

function bytesOf(value) {
  if (typeof value === 'string') return new TextEncoder().encode(value);
  return Uint8Array.from(atob(value.base64 ?? ''), (letter) => letter.charCodeAt(0));
}

/** A key in a path. */
export const encoded = (value) =>
  typeof value === 'string'
    ? encodeURIComponent(value)
    : [...bytesOf(value)].map((byte) => `%${byte.toString(16).padStart(2, '0')}`).join('');

/** The same for equal keys, different for different ones. */
export const idOf = (value) => (typeof value === 'string' ? `t${value}` : `b${value?.base64}`);

export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString('en')} ${count === 1 ? one : many}`;

/** A time as people say it: 850 ms, 4.2 s, 3 min 5 s, 2 h 4 min. */
export function time(ms) {
  if (ms === null || ms === undefined || !Number.isFinite(ms)) return '–';
  if (ms < 1) return ms <= 0 ? '0 ms' : `${ms.toFixed(2)} ms`;
  if (ms < 1000) return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  const s = ms / 1000;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** The same to whole seconds, for what ticks. */
export const ticking = (ms) => (ms < 60_000 ? `${Math.max(0, Math.floor(ms / 1000))} s` : time(ms));

export function bytes(count) {
  if (!Number.isFinite(count)) return '–';
  const units = ['B', 'KB', 'MB', 'GB', 'TB'];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) [count, unit] = [count / 1024, unit + 1];
  return `${unit && count < 10 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

const TOASTS_MAX = 3;

/** A few words that go away again, read aloud by screen readers. */
export function toast(text, kind = '') {
  while ($('toasts').children.length >= TOASTS_MAX) $('toasts').firstChild.remove();
  const note = h(`div.toast${kind ? `.${kind}` : ''}`, {}, text);
  $('toasts').append(note);
  setTimeout(() => note.remove(), 6000);
}
