// The way to Lockgate's admin server: JSON, and the stream of events.

import { encoded } from './dom.js';

const STORED = 'lockgate-token';
let askForToken = async () => null;

/** Who is asked for the token when one is needed; resolves to it, or to null. */
export const onTokenNeeded = (ask) => { askForToken = ask; };

export function token() {
  try { return sessionStorage.getItem(STORED); } catch { return null; }
}

export function setToken(value) {
  try {
    if (value) sessionStorage.setItem(STORED, value);
    else sessionStorage.removeItem(STORED);
  } catch { /* Then it is asked for each time. */ }
}

const headers = () => (token() ? { authorization: `Bearer ${token()}` } : {});

export class Refused extends Error {
  constructor(status, says) { super(says); this.status = status; }
}

async function read(response) {
  const body = await response.json().catch(() => null);
  if (!response.ok && response.status !== 503) throw new Refused(response.status, body?.error ?? response.statusText);
  if (body?.error) throw new Refused(response.status, body.error);
  return body;
}

export const get = async (path) => read(await fetch(path, { headers: headers(), cache: 'no-store' }));

/** Something that changes a lock. Asks for the token where it is missing or wrong, and tries once more. */
export async function change(method, path) {
  let response = await fetch(path, { method, headers: headers() });
  if (response.status === 401) {
    const given = await askForToken(token() ? 'That token was not accepted.' : '');
    if (!given) throw new Refused(401, 'nothing was changed: no token was given');
    setToken(given);
    response = await fetch(path, { method, headers: headers() });
    if (response.status === 401) setToken(null);
  }
  return read(response);
}

export const lockPath = (key, db, more = '') => `/api/locks/${encoded(key)}${more}${more.includes('?') ? '&' : '?'}db=${db}`;

/** All locks of a database, page by page. */
export async function* locks(db) {
  let cursor = '0';
  do {
    const page = await get(`/api/locks?db=${db}&count=1000&cursor=${cursor}`);
    yield page.locks;
    cursor = String(page.cursor);
  } while (cursor !== '0');
}

/** Events as they come; connects again by itself. `EventSource` would send no token. */
export async function listen({ onEvents, onState }) {
  for (let failures = 0; ; failures++) {
    try {
      const response = await fetch('/api/events', { headers: headers(), cache: 'no-store' });
      if (!response.ok) throw new Refused(response.status, 'no events');
      onState('live');
      failures = 0;
      await eachMessage(response.body, onEvents);
      onState('again');
    } catch (error) {
      onState(error instanceof Refused ? 'refused' : 'lost');
    }
    await new Promise((resolve) => setTimeout(resolve, Math.min(250 * 2 ** Math.min(failures, 4), 3000)));
  }
}

async function eachMessage(body, onEvents) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split('\n\n');
    rest = parts.pop();
    const events = parts.filter((part) => part.startsWith('data:')).map((part) => JSON.parse(part.slice(5)));
    if (events.length) onEvents(events);
  }
}
