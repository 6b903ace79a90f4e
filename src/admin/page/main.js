// The page: asks for the whole now and then, and hears of every change in between.

import * as api from './api.js';
import { Charts } from './charts.js';
import { Detail, askToken } from './detail.js';
import { $, plural, say, shown, toast } from './dom.js';
import { draw as drawGraph } from './graph.js';
import { Locks } from './model.js';
import * as panels from './panels.js';
import { Table } from './table.js';

const QUEUES_SHOWN = 8;
/** The whole is asked for again after so long, or after thirty times what it took. */
const RELIST_MIN = 10_000;
/** Figures are asked for so often, and so soon after something has happened. */
const LOOK_EVERY = 2000;
const LOOK_SOON = 150;
const OVERDUE_MAX = 20;

const state = { db: 0, locks: new Locks(), view: { search: '', owner: '', which: 'all', sort: 'key', down: false }, nodes: null };
const charts = new Charts();
const detail = new Detail(() => looksSoon());
const table = new Table({
  onOpen: (lock) => detail.open(lock.key, state.db),
  onSort: (by) => { Object.assign(state.view, { sort: by, down: state.view.sort === by ? !state.view.down : !['key', 'owner', 'node'].includes(by) }); show(); },
  onOwner: (lock) => { state.view.owner = $('owner').value = lock.ownerText; show(); },
});

// ---- The list.

let isDue = false;
/** Draws the list with the next frame, however often it is called before. */
function show() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    const { locks, view } = state;
    const found = locks.view(view, Date.now());
    table.sorted(view.sort, view.down);
    table.show(found);
    const all = locks.byId.size;
    say($('locks-count'), found.length === all ? plural(all, 'lock') : `${found.length.toLocaleString('en')} of ${plural(all, 'lock')}`);
    $('empty').hidden = found.length > 0;
    if (!found.length) say($('empty'), state.isListed ? (all ? 'No lock fits.' : 'Nobody holds a lock.') : 'Looking …');
    say($('endless-count'), locks.endless() ? `· ${locks.endless().toLocaleString('en')}` : '');
    tiles();
  });
}

async function list() {
  const { db, locks } = state;
  const began = Date.now();
  const listing = locks.begins();
  for await (const page of pagesOf(db)) {
    if (db !== state.db) return;
    locks.told(page.locks, page.asked, Date.now());
    if (!state.isListed) show();
  }
  locks.ends(listing, Date.now());
  state.isListed = true;
  show();
  return Date.now() - began;
}

async function* pagesOf(db) {
  let asked = Date.now();
  for await (const locks of api.locks(db)) {
    yield { locks, asked };
    asked = Date.now();
  }
}

async function listAgainAndAgain() {
  for (;;) {
    let took = 0;
    if (!document.hidden) took = (await list().catch(() => 0)) ?? 0;
    await Promise.race([pause(Math.max(RELIST_MIN, 30 * took)), new Promise((again) => { state.listNow = again; })]);
  }
}

/** Leases that are over by what was known: lengthened meanwhile, or gone. */
async function lookAtOverdue() {
  const late = state.locks.overdue(Date.now());
  if (late.length > OVERDUE_MAX) return void state.listNow?.();
  const asked = Date.now();
  await Promise.all(late.map(async (lock) => {
    const told = await api.get(api.lockPath(lock.key, state.db)).catch(() => null);
    if (told) state.locks.told([told], asked, Date.now());
  }));
  if (late.length) show();
}

// ---- Figures, queues, waits, deadlocks, nodes, health.

let lastStats = null;
function tiles() {
  if (!state.stats) return;
  const { locks, stats, nodes, queues } = state;
  panels.tiles({ stats, held: locks.byId.size, endless: locks.endless(), rate: state.rate ?? 0, nodes, queues });
}

async function looks() {
  const [stats, queues, graph, deadlocks] = await Promise.all([
    api.get('/api/stats'), api.get(`/api/queue-status?show=${QUEUES_SHOWN}`), api.get('/api/graph'), api.get('/api/deadlocks'),
  ]);
  Object.assign(state, { stats, queues });
  state.locks.waited(queues.queues, state.db);
  panels.queues(queues, (queue) => detail.open(queue.key, queue.db));
  say($('graph-count'), graph.length ? plural(graph.length, 'wait') : '');
  drawGraph($('graph-drawn'), graph);
  panels.deadlocks(deadlocks);
  show();
}

async function looksAtRest() {
  const [nodes, latency] = await Promise.all([api.get('/api/cluster/nodes'), api.get('/api/latency')]);
  state.nodes = nodes;
  panels.nodes(nodes);
  const { wait_ms: wait, hold_ms: hold, hand_over_ms: handOver } = state.stats ?? {};
  charts.show(latency, { wait, hold, hand_over: handOver });
}

async function looksAtHealth() {
  try {
    panels.health(await api.get('/api/health/detailed'));
  } catch (error) {
    if (!(error instanceof api.Refused)) panels.health(null);
  }
}

let soon = null;
let isLooking = false;
function looksSoon() {
  soon ??= setTimeout(async () => {
    soon = null;
    if (isLooking) return looksSoon();
    isLooking = true;
    await looks().catch(() => {});
    isLooking = false;
  }, LOOK_SOON);
}

/** Each second: what ticks is drawn, and grants are counted. */
function passes() {
  if (document.hidden) return;
  table.draw();
  lookAtOverdue();
  const stats = state.stats;
  if (!stats) return;
  const now = performance.now();
  if (lastStats && stats !== lastStats.stats) {
    const seconds = (now - lastStats.at) / 1000;
    state.rate = Math.max(0, (stats.successful_acquires - lastStats.stats.successful_acquires) / seconds);
  }
  if (!lastStats || stats !== lastStats.stats) lastStats = { stats, at: now };
  charts.passed(Math.round(state.rate ?? 0), state.queues?.queue_depth ?? stats.queue_depth);
  tiles();
}

// ---- Events.

function heard(events) {
  const now = Date.now();
  let hasChanged = false;
  for (const event of events) {
    if (event.key === null) {
      toast(`Node ${shown(event.peer)} ${event.event === 'node_up' ? 'has come' : 'has gone'}.`);
      looksAtRest().catch(() => {});
      continue;
    }
    if (event.event === 'deadlock') toast(`Deadlock: ${shown(event.cycle)}`, 'bad');
    if (event.db === state.db) hasChanged = state.locks.happens(event, now) || hasChanged;
    if (detail.concerns(event)) detail.lookSoon();
  }
  if (hasChanged) show();
  looksSoon();
}

function isLive(how) {
  const words = { live: 'live', again: 'connecting', lost: 'not connected', refused: 'no events' };
  say($('live'), words[how]);
  $('live').dataset.state = how;
  // What happened meanwhile was not heard.
  if (how === 'live') {
    state.listNow?.();
    looksSoon();
  } else if (how === 'lost') looksAtHealth();
}

// ---- What people do.

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function wire() {
  for (const name of ['search', 'owner']) {
    $(name).addEventListener('input', (event) => { state.view[name] = event.target.value.trim(); $('scroll').scrollTop = 0; show(); });
  }
  $('search').addEventListener('keydown', (event) => { if (event.key === 'ArrowDown') { event.preventDefault(); $('scroll').focus(); table.choose(0); } });
  $('db').addEventListener('change', (event) => {
    state.db = Math.max(0, Number.parseInt(event.target.value, 10) || 0);
    state.locks = new Locks();
    state.isListed = false;
    state.listNow?.();
    show();
    looksSoon();
  });
  const chips = [...document.querySelectorAll('[data-which]')];
  for (const chip of chips) {
    chip.addEventListener('click', () => {
      state.view.which = chip.dataset.which;
      chips.forEach((other) => other.setAttribute('aria-pressed', other === chip));
      $('scroll').scrollTop = 0;
      show();
    });
  }
  document.addEventListener('keydown', (event) => {
    if (event.key === '/' && !/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && !document.querySelector('dialog[open]')) {
      event.preventDefault();
      $('search').focus();
    }
  });
  $('theme').addEventListener('click', () => {
    const root = document.documentElement;
    const isDark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
    root.dataset.theme = isDark ? 'light' : 'dark';
    try { localStorage.setItem('lockgate-theme', root.dataset.theme); } catch { /* For this time only, then. */ }
    charts.redraw();
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => charts.redraw());
  $('token').addEventListener('click', async () => {
    const given = await askToken('');
    if (given) api.setToken(given);
  });
  if (api.token()) say($('token'), 'Token set');
  document.addEventListener('visibilitychange', () => { if (!document.hidden) { state.listNow?.(); looksSoon(); } });
}

wire();
api.onTokenNeeded(askToken);
api.listen({ onEvents: heard, onState: isLive });
listAgainAndAgain();
looks().catch(() => {}).then(() => looksAtRest().catch(() => {}));
looksAtHealth();
setInterval(passes, 1000);
setInterval(() => { if (!document.hidden) { looksSoon(); looksAtHealth(); looksAtRest().catch(() => {}); } }, LOOK_EVERY);
