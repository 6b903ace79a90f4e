// What is known of the locks of one database. Pure: no network, no page. Times are the browser's.

import { idOf, shown } from './dom.js';

export class Locks {
  constructor() {
    this.byId = new Map();
    this.listing = 0;
    /** When something last happened to a key: an answer that was asked for before is older. */
    this.touched = new Map();
  }

  /** A whole listing begins; what it does not name is gone when it ends. */
  begins() { return ++this.listing; }

  /** Answers to what was asked for at `asked`: a page of `LOCK.LIST`, or one `LOCK.INFO`. */
  told(answers, asked, now) {
    for (const told of answers) {
      const id = idOf(told.key);
      if ((this.touched.get(id) ?? -1) < asked) this.put(told, now);
      else if (this.byId.has(id)) this.byId.get(id).seen = this.listing;
    }
  }

  ends(listing, now) {
    for (const [id, lock] of this.byId) if (lock.seen < listing) this.byId.delete(id);
    for (const [id, at] of this.touched) if (at < now - 60_000) this.touched.delete(id);
  }

  /** What `LOCK.INFO` tells of one key. */
  put(told, now) {
    const id = idOf(told.key);
    if (!told.held) return void this.byId.delete(id);
    const known = this.byId.get(id);
    this.byId.set(id, {
      id,
      key: told.key,
      text: known?.text ?? shown(told.key),
      owner: told.owner,
      ownerText: shown(told.owner),
      fence: told.fence,
      until: told.ttl < 0 ? Infinity : now + told.ttl,
      since: told.acquired_at,
      priority: told.priority,
      node: told.node,
      meta: told.meta,
      waiters: known?.waiters ?? told.waiters ?? 0,
      seen: this.listing,
    });
  }

  /** An event. Returns whether the list has changed. */
  happens(event, now) {
    const id = idOf(event.key);
    const known = this.byId.get(id);
    this.touched.set(id, now);
    switch (event.event) {
      case 'acquired':
        this.put({
          key: event.key, held: 1, owner: event.owner, fence: event.fence, ttl: event.ttl_ms ?? -1,
          acquired_at: known?.fence === event.fence && known?.since ? known.since : event.at_ms,
          priority: known?.fence === event.fence ? known?.priority : null,
          node: event.node, meta: known?.fence === event.fence ? known?.meta : null, waiters: known?.waiters ?? 0,
        }, now);
        return true;
      case 'released': case 'forced': case 'expired':
        // The next holder's grant may have been told first, by another node.
        if (!known || (event.fence && known.fence && known.fence > event.fence)) return false;
        return this.byId.delete(id);
      case 'transferred':
        if (known) Object.assign(known, { owner: event.to, ownerText: shown(event.to), fence: event.fence, since: event.at_ms });
        return Boolean(known);
      default:
        return false;
    }
  }

  /** How many wait for each key, of all nodes. */
  waited(queues, db) {
    const counts = new Map(queues.filter((queue) => queue.db === db).map((queue) => [idOf(queue.key), queue.waiters]));
    for (const lock of this.byId.values()) lock.waiters = counts.get(lock.id) ?? 0;
  }

  /** Those whose lease should be over by now: they were lengthened, or are gone. */
  overdue(now) { return [...this.byId.values()].filter((lock) => lock.until < now - 250); }

  endless() {
    let count = 0;
    for (const lock of this.byId.values()) if (lock.until === Infinity) count++;
    return count;
  }

  /** The locks that fit, in order. */
  view({ search, owner, which, sort, down }, now) {
    const fits = matcher(search);
    const ofOwner = matcher(owner);
    const found = [];
    for (const lock of this.byId.values()) {
      if (which === 'waited' && !lock.waiters) continue;
      if (which === 'endless' && lock.until !== Infinity) continue;
      if (fits(lock.text) && ofOwner(lock.ownerText)) found.push(lock);
    }
    const by = ORDERS[sort](now);
    const sign = down ? -1 : 1;
    return found.sort((a, b) => sign * by(a, b) || compare(a.text, b.text));
  }
}

const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
const LEVELS = { low: 0, normal: 1, high: 2, critical: 3 };

const ORDERS = {
  key: () => (a, b) => compare(a.text, b.text),
  owner: () => (a, b) => compare(a.ownerText, b.ownerText),
  since: (now) => (a, b) => compare(b.since ?? now, a.since ?? now),
  until: () => (a, b) => compare(a.until, b.until),
  priority: () => (a, b) => compare(LEVELS[a.priority] ?? -1, LEVELS[b.priority] ?? -1),
  waiters: () => (a, b) => a.waiters - b.waiters,
  fence: () => (a, b) => compare(a.fence ?? 0, b.fence ?? 0),
  node: () => (a, b) => compare(a.node ?? '', b.node ?? ''),
};

/** Part of a text in any case; with a star or a question mark, the whole of it as a glob. */
export function matcher(wanted) {
  if (!wanted) return () => true;
  if (!/[*?]/.test(wanted)) {
    const part = wanted.toLowerCase();
    return (text) => text.toLowerCase().includes(part);
  }
  const pattern = wanted.replace(/[.+^${}()|[\]\\]/g, '\\$&').replace(/\*+/g, '.*').replace(/\?/g, '.');
  const glob = new RegExp(`^${pattern}$`, 'is');
  return (text) => glob.test(text);
}
