// One lock: who holds it, who waits, and what can be done about it.

import * as api from './api.js';
import { $, h, idOf, plural, say, shown, ticking, toast } from './dom.js';
import { level } from './panels.js';

const LEVELS = ['low', 'normal', 'high', 'critical'];
const EVERY = 1000;
const SOON = 150;

export class Detail {
  constructor(onChanged) {
    this.dialog = $('detail');
    this.onChanged = onChanged;
    this.dialog.addEventListener('close', () => this.closed());
    this.dialog.addEventListener('click', (event) => event.target === this.dialog && this.dialog.close());
  }

  open(key, db) {
    this.key = key;
    this.db = db;
    this.parts = {
      facts: h('dl.facts'),
      queue: h('div'),
      force: h('button.danger', { type: 'button', click: () => this.force() }, 'Take the lock away …'),
    };
    this.dialog.replaceChildren(
      h('div.head', {}, h('h2', { id: 'detail-title' }, h('bdi', {}, shown(key))),
        h('button.quiet.close', { type: 'button', 'aria-label': 'Close', click: () => this.dialog.close() }, '✕')),
      this.parts.facts,
      h('h3', {}, 'Queue'), this.parts.queue,
      h('div.acts', {}, this.parts.force));
    this.dialog.showModal();
    this.timer = setInterval(() => this.look(), EVERY);
    this.look();
  }

  closed() {
    clearInterval(this.timer);
    this.key = undefined;
  }

  concerns(event) { return this.key !== undefined && idOf(event.key) === idOf(this.key) && event.db === this.db; }

  lookSoon() {
    this.soon ??= setTimeout(() => { this.soon = null; this.look(); }, SOON);
  }

  async look() {
    if (this.key === undefined) return;
    const key = this.key;
    try {
      const told = await api.get(api.lockPath(key, this.db));
      if (key === this.key) this.show(told);
    } catch (error) {
      if (key === this.key) this.parts.facts.replaceChildren(h('p.bad', {}, error.message));
    }
  }

  show(told) {
    this.told = told;
    const facts = told.held
      ? [['Holder', h('bdi', {}, shown(told.owner))],
        ['Held for', told.acquired_at ? ticking(Date.now() - told.acquired_at) : 'unknown: it was taken by SET NX or around Lockgate'],
        ['Lease left', told.ttl < 0 ? h('b.bad', {}, 'no expiry: if its holder dies, it stays') : ticking(told.ttl)],
        ['Fence', told.fence ?? 'none'], ['Priority', told.priority ? level(told.priority) : '–'],
        ['Granted by', told.node ? shown(told.node) : '–'],
        ['Note', told.meta ? h('bdi', {}, shown(told.meta)) : '–']]
      : [['Holder', 'nobody holds it']];
    this.parts.facts.replaceChildren(...facts.map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value))));
    this.parts.force.disabled = !told.held;
    this.showQueue(told.queue);
  }

  showQueue(queue) {
    const place = this.parts.queue;
    const waiters = queue.filter((waiter) => waiter.owner !== null);
    const silent = queue.filter((waiter) => waiter.owner === null);
    // Whoever is choosing a level is not disturbed.
    if (place.contains(document.activeElement) && document.activeElement.tagName === 'SELECT') return;
    if (!waiters.length && !silent.length) return void place.replaceChildren(h('p.empty', {}, 'Nobody waits.'));
    place.replaceChildren(
      h('table.queue', {},
        h('thead', {}, h('tr', {}, ['#', 'Owner', 'Waited', 'Gives up in', 'Priority'].map((title) => h('th', { scope: 'col' }, title)))),
        h('tbody', {}, waiters.slice(0, 200).map((waiter, index) => h('tr', {},
          h('td.number', {}, String(index + 1)), h('th', { scope: 'row' }, h('bdi', {}, shown(waiter.owner))),
          h('td', {}, ticking(waiter.waited)), h('td', {}, waiter.deadline === null ? '–' : ticking(waiter.deadline)),
          h('td', {}, this.promoter(waiter)))))),
      waiters.length > 200 ? h('p.faint', {}, `and ${waiters.length - 200} more`) : '',
      ...silent.map((waiter) => h('p.bad', {}, `Node ${shown(waiter.node)} did not answer; its waiters are missing here.`)));
  }

  promoter(waiter) {
    if (typeof waiter.owner !== 'string') return level(waiter.priority);
    return h('select', {
      'aria-label': `Priority of ${shown(waiter.owner)}`, 'data-level': waiter.priority,
      change: (event) => { const wanted = event.target.value; event.target.blur(); this.promote(waiter.owner, wanted); },
    }, LEVELS.map((name) => h('option', { value: name, selected: name === waiter.priority }, name)));
  }

  async promote(owner, wanted) {
    try {
      const { place } = await api.change('POST', api.lockPath(this.key, this.db, `/promote?owner=${encodeURIComponent(owner)}&level=${wanted}`));
      toast(`${shown(owner)} now waits at ${wanted}, place ${place}.`);
    } catch (error) {
      toast(error.message, 'bad');
    }
    this.look();
    this.onChanged();
  }

  async force() {
    const { key, db, told } = this;
    const waiting = told.queue.filter((waiter) => waiter.owner !== null).length;
    const sure = await asked({
      title: 'Take the lock away?',
      says: [h('p', {}, h('b', {}, h('bdi', {}, shown(key))), ' is taken from ', h('b', {}, h('bdi', {}, shown(told.owner))), '. ',
        waiting ? `The next of ${plural(waiting, 'waiter')} gets it at once.` : 'Nobody waits for it.'),
      h('p.faint', {}, 'Its holder may still believe that it has the lock. Only fences protect what it writes.')],
      yes: 'Take it away', danger: true,
    });
    if (sure === null) return;
    try {
      await api.change('DELETE', api.lockPath(key, db));
      toast(`${shown(key)} was taken from ${shown(told.owner)}.`);
    } catch (error) {
      toast(error.message, 'bad');
    }
    if (this.key !== undefined) this.look();
    this.onChanged();
  }
}

/** A question in a box of its own; resolves to what was entered (or to an empty text), to null where it was called off. */
export function asked({ title, says, yes, danger, secret }) {
  const dialog = $('ask');
  const input = secret ? h('input', { type: 'password', 'aria-label': secret, autocomplete: 'off', required: true }) : null;
  return new Promise((resolve) => {
    let answer = null;
    const form = h('form', { submit: (event) => { event.preventDefault(); answer = input?.value ?? ''; dialog.close(); } },
      h('h2', { id: 'ask-title' }, title), says, input,
      h('div.acts', {}, h('button.quiet', { type: 'button', click: () => dialog.close() }, 'Cancel'),
        h(danger ? 'button.danger' : 'button.primary', { type: 'submit' }, yes)));
    dialog.replaceChildren(form);
    dialog.addEventListener('close', () => { dialog.replaceChildren(); resolve(answer); }, { once: true });
    dialog.showModal();
    (input ?? form.querySelector('button')).focus();
  });
}

export async function askToken(trouble) {
  const given = await asked({
    title: 'Admin token',
    says: [h('p', {}, 'What changes a lock needs the admin_token of the configuration. It is kept in this tab only.'), trouble ? h('p.bad', { role: 'alert' }, trouble) : null],
    yes: 'Use it', secret: 'Admin token',
  });
  say($('token'), given ? 'Token set' : 'Admin token');
  return given;
}
