// Everything beside the list of locks: figures, queues, deadlocks, nodes, the upstream.

import { compact } from './charts.js';
import { $, bytes, h, plural, say, shown, ticking, time } from './dom.js';

/** So many of those who are next are told with a queue. */
const NEXT_MAX = 6;

/** Replaces what a place shows, unless somebody is at a button of it or it would be the same. */
function put(place, signature, make) {
  const text = JSON.stringify(signature);
  if (place.dataset.shown === text) return;
  const at = place.contains(document.activeElement) ? document.activeElement.dataset.at : undefined;
  place.dataset.shown = text;
  place.replaceChildren(...[make()].flat());
  if (at) [...place.querySelectorAll('[data-at]')].find((element) => element.dataset.at === at)?.focus();
}

export function tiles({ stats, held, endless, rate, nodes, queues }) {
  say($('t-held'), held.toLocaleString('en'));
  say($('t-held-more'), endless ? `${endless.toLocaleString('en')} without expiry` : 'all with an expiry');
  $('t-held').parentElement.classList.toggle('warm', endless > 0);
  const depth = queues?.queue_depth ?? stats.queue_depth;
  say($('t-waiting'), depth.toLocaleString('en'));
  say($('t-waiting-more'), queues ? `for ${plural(queues.queues.length, 'key')}` : '\u00a0');
  say($('t-rate'), compact(rate));
  say($('t-rate-more'), `${compact(stats.successful_acquires)} in all · ${compact(stats.refused)} refused`);
  say($('t-wait'), stats.wait_ms.count ? time(stats.wait_ms.p95) : '–');
  say($('t-wait-more'), stats.wait_ms.count ? `p50 ${time(stats.wait_ms.p50)} · ${compact(stats.timeouts)} timed out` : 'nobody has waited');
  say($('t-deadlocks'), stats.deadlocks.toLocaleString('en'));
  $('t-deadlocks').parentElement.classList.toggle('warm', stats.deadlocks > 0);
  say($('node'), stats.node);
  say($('nodes-count'), nodes ? plural(nodes.length, 'node') : '');
}

export function queues(told, onOpen) {
  const shownQueues = told.queues.filter((queue) => queue.next?.length);
  say($('queues-count'), told.queues.length ? `${plural(told.queue_depth, 'call')} for ${plural(told.queues.length, 'key')}` : '');
  put($('queue-list'), shownQueues.map(({ key, db, waiters, next }) => [key, db, waiters, next.map((w) => [w.owner, w.priority, Math.floor(w.waited / 1000)])]), () => {
    if (!shownQueues.length) return h('p.empty', {}, 'No queues: every lock is free or has one taker.');
    return h('ul.queues', {}, shownQueues.map((queue) => h('li', {},
      h('button.link', { type: 'button', 'data-at': `q${queue.db}${shown(queue.key)}`, click: () => onOpen(queue) },
        h('bdi', {}, shown(queue.key)), queue.db ? h('span.faint', {}, ` db ${queue.db}`) : null),
      h('span.count', { title: 'waiting calls' }, waitersOf(queue).toLocaleString('en')),
      h('ol.line', {}, queue.next.filter((waiter) => waiter.owner !== null).map(waiterShown),
        waitersOf(queue) > queue.next.length ? h('li.more', {}, `and ${(queue.waiters - queue.next.length).toLocaleString('en')} more`) : null))));
  });
}

/** A short list is newer than the count. */
const waitersOf = ({ waiters, next }) => (next.length < NEXT_MAX ? next.length : waiters);

export const level = (priority) => h('span.level', { 'data-level': priority }, priority);

const waiterShown = (waiter) => h('li', {},
  level(waiter.priority), h('bdi', {}, shown(waiter.owner)), h('span.faint', {}, ticking(waiter.waited)));

/** Owners and keys in turn; where a name has an arrow in it, as it stands. */
export function cycleShown(cycle, victim) {
  const parts = cycle.split(' -> ');
  if (parts.length % 2 === 0) return h('p.cycle', {}, h('bdi', {}, shown(cycle)));
  return h('p.cycle', {}, parts.map((part, index) => [
    index ? h('span.arrow', { 'aria-hidden': 'true' }, '→') : null,
    h(index % 2 ? 'bdi.of-key' : part === victim ? 'bdi.of-owner.victim' : 'bdi.of-owner', {}, shown(part)),
  ]));
}

export function deadlocks(found) {
  say($('deadlocks-count'), found.length ? plural(found.length, 'found', 'found') : '');
  put($('deadlock-list'), found.slice(0, 20), () => {
    if (!found.length) return h('p.empty', {}, 'None so far.');
    return h('ul.plain.deadlocks', {}, found.slice(0, 20).map((one) => h('li', {},
      h('p.when', {}, h('time', { datetime: new Date(one.when).toISOString() }, new Date(one.when).toLocaleString()),
        h('span.faint', {}, ' · ended: '), h('b', {}, h('bdi', {}, shown(one.victim))), h('span.faint', {}, ` (${String(one.policy).replace(/_/g, ' ')})`)),
      cycleShown(shown(one.cycle), shown(one.victim)))));
  });
}

export function nodes(told) {
  put($('node-list'), told.map((node) => ({ ...node, last_seen: node.last_seen > 2000 })), () => h('div.wide', {}, h('table', {},
    h('thead', {}, h('tr', {}, ['Node', 'Address', 'Version', 'Waiting', 'Renewed locks', 'Up since'].map((title) => h('th', { scope: 'col' }, title)))),
    h('tbody', {}, told.map((node) => h('tr', {},
      h('th', { scope: 'row' }, h('bdi', {}, shown(node.id)), node.is_leader ? h('span.badge', { title: 'cleans up behind dead nodes' }, 'leader') : null,
        node.is_self ? h('span.badge.plain', {}, 'this one') : null,
        node.last_seen > 2000 ? h('span.badge.bad', {}, `silent for ${ticking(node.last_seen)}`) : null),
      h('td', {}, shown(node.address)), h('td', {}, shown(node.version)), h('td.number', {}, node.waiters.toLocaleString('en')),
      h('td.number', {}, node.locks.toLocaleString('en')), h('td', {}, new Date(node.started_at).toLocaleString())))))));
}

const STATES = { ok: 'good', degraded: 'degraded', down: 'down' };

/** The upstream's health; `null` where Lockgate itself does not answer. */
export function health(told) {
  const state = told ? STATES[told.status] ?? told.status : 'unknown';
  say($('t-health'), told ? String(told.health_score) : '–');
  say($('t-health-more'), told?.reasons?.[0]?.says ?? (told ? 'of 100 · nothing to complain of' : 'Lockgate does not answer'));
  $('t-health').parentElement.dataset.state = told?.status ?? 'down';
  say($('health-state'), state);
  const banner = $('banner');
  banner.hidden = Boolean(told && told.status !== 'down');
  if (!banner.hidden) say(banner, told ? `The upstream is away: ${told.reasons?.[0]?.says ?? 'it does not answer'}. Waiting calls wait on; nobody is granted anything.` : 'Lockgate does not answer. What is shown is what was known last.');
  if (!told) return;
  const figures = healthFigures(told);
  put($('health-list'), [told.status, told.health_score, told.reasons, figures], () => [
    h('div.score', {}, h('meter', { min: 0, max: 100, low: 50, high: 80, optimum: 100, value: told.health_score, 'aria-label': 'health score' }),
      h('b', {}, `${told.health_score} of 100`)),
    told.reasons?.length ? h('ul.reasons', {}, told.reasons.map((reason) => h('li', {}, h('span.badge.bad', {}, `−${reason.costs}`), reason.says))) : h('p.faint', {}, 'Nothing to complain of.'),
    h('dl', {}, figures.map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value)))),
  ]);
}

function healthFigures({ upstream = {}, pool = {} }) {
  const { round_trip_ms: trip, memory, replication, persistence } = upstream;
  return [
    ['Round trip', trip !== undefined && trip !== null ? time(trip) : null],
    ['Memory', memory ? `${bytes(memory.used)}${memory.max ? ` of ${bytes(memory.max)} (${Math.round(memory.share * 100)} %)` : ', no limit'}` : null],
    ['Replication', replication ? `${replication.role}, ${plural(replication.replicas, 'replica')}` : null],
    ['Persistence', persistence ? `append-only file ${persistence.append_only_file}, snapshot ${persistence.snapshot}` : null],
    ['Slow commands', upstream.slow_commands !== undefined && upstream.slow_commands !== null ? `${upstream.slow_commands} since the look before` : null],
    ['Server', upstream.server ?? null],
    ['Clients', pool.clients !== undefined ? `${pool.clients.toLocaleString('en')}, ${plural(pool.own_links, 'link')} of their own` : null],
  ].filter(([, value]) => value !== null && value !== undefined);
}
