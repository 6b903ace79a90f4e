// The list of locks. However many there are, only the rows that can be seen exist; they are used again as the list is scrolled.

import { $, h, say, ticking } from './dom.js';

const ROW = 38;
const SPARE = 6;
const COLUMNS = [
  ['key', 'Key'], ['owner', 'Owner'], ['since', 'Held for'], ['until', 'Lease left'],
  ['waiters', 'Waiting'], ['priority', 'Priority'], ['fence', 'Fence'], ['node', 'Node'],
];

export class Table {
  constructor({ onOpen, onSort, onOwner }) {
    this.locks = [];
    this.rows = [];
    this.at = null;
    this.onOpen = onOpen;
    this.onOwner = onOwner;
    this.scroll = $('scroll');
    this.long = $('long');
    this.headings(onSort);
    this.scroll.addEventListener('scroll', () => this.draw(), { passive: true });
    this.scroll.addEventListener('keydown', (event) => this.key(event));
    this.scroll.addEventListener('click', (event) => this.click(event));
    new ResizeObserver(() => this.draw()).observe(this.scroll);
  }

  headings(onSort) {
    this.sorts = COLUMNS.map(([name, title]) => {
      const button = h('button', { type: 'button', click: () => onSort(name) }, title);
      const cell = h(`div.cell.${name}`, { role: 'columnheader' }, button);
      cell.dataset.name = name;
      return cell;
    });
    $('headings').append(...this.sorts);
    $('grid').setAttribute('aria-colcount', COLUMNS.length);
  }

  sorted(by, down) {
    for (const cell of this.sorts) {
      const is = cell.dataset.name === by;
      cell.setAttribute('aria-sort', is ? (down ? 'descending' : 'ascending') : 'none');
    }
  }

  show(locks) {
    const current = this.locks[this.at]?.id;
    this.locks = locks;
    // The row that was chosen stays chosen where it has moved to.
    if (this.at !== null && locks[this.at]?.id !== current) {
      const moved = locks.findIndex((lock) => lock.id === current);
      this.at = moved < 0 ? null : moved;
    }
    this.long.style.height = `${locks.length * ROW}px`;
    $('grid').setAttribute('aria-rowcount', locks.length + 1);
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.scroll.scrollTop / ROW) - SPARE);
    const count = Math.min(this.locks.length - first, Math.ceil(this.scroll.clientHeight / ROW) + 2 * SPARE);
    while (this.rows.length < count) this.rows.push(this.newRow());
    const now = Date.now();
    this.rows.forEach((row, index) => {
      const number = first + index;
      const lock = index < count ? this.locks[number] : undefined;
      row.element.hidden = !lock;
      if (lock) this.fill(row, lock, number, now);
    });
    const active = this.rows.find((row) => row.number === this.at && !row.element.hidden);
    if (active) this.scroll.setAttribute('aria-activedescendant', active.element.id);
    else this.scroll.removeAttribute('aria-activedescendant');
  }

  newRow() {
    const cells = Object.fromEntries(COLUMNS.map(([name]) => [name, h(`div.cell.${name}`, { role: 'gridcell' })]));
    cells.bar = h('i.bar', { 'aria-hidden': 'true' });
    const text = h('span');
    cells.until.append(text, cells.bar);
    cells.left = text;
    const owner = h('button.owner-name', { type: 'button', tabindex: -1 });
    cells.owner.append(owner);
    cells.ownerName = owner;
    const element = h('div.row', { role: 'row', id: `row-${this.rows.length}` }, COLUMNS.map(([name]) => cells[name]));
    this.long.append(element);
    return { element, cells, number: -1 };
  }

  fill(row, lock, number, now) {
    const { element, cells } = row;
    if (row.number !== number) {
      row.number = number;
      element.style.transform = `translateY(${number * ROW}px)`;
      element.setAttribute('aria-rowindex', number + 2);
    }
    element.classList.toggle('chosen', number === this.at);
    element.setAttribute('aria-selected', number === this.at);
    say(cells.key, lock.text);
    cells.key.title = lock.text;
    say(cells.ownerName, lock.ownerText);
    cells.ownerName.title = `Only locks of ${lock.ownerText}`;
    say(cells.since, lock.since ? ticking(now - lock.since) : '–');
    const left = lock.until - now;
    const endless = lock.until === Infinity;
    say(cells.left, endless ? 'no expiry' : left < 0 ? 'ending' : ticking(left));
    cells.until.classList.toggle('endless', endless);
    const whole = lock.since ? lock.until - lock.since : 0;
    cells.bar.style.width = endless || !whole ? '0' : `${Math.max(0, Math.min(100, (100 * left) / whole)).toFixed(1)}%`;
    cells.bar.classList.toggle('soon', left < 5000);
    say(cells.waiters, lock.waiters ? String(lock.waiters) : '·');
    cells.waiters.classList.toggle('some', lock.waiters > 0);
    say(cells.priority, lock.priority ?? '–');
    cells.priority.dataset.level = lock.priority ?? '';
    say(cells.fence, lock.fence ? String(lock.fence) : '–');
    say(cells.node, lock.node?.replace?.(/:\d+\??$/, '') ?? '–');
  }

  click(event) {
    const element = event.target.closest('.row');
    const row = this.rows.find((row) => row.element === element);
    const lock = row && this.locks[row.number];
    if (!lock) return;
    this.at = row.number;
    this.draw();
    if (event.target.closest('.owner-name')) this.onOwner(lock);
    else this.onOpen(lock);
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.scroll.clientHeight / ROW) - 1);
    const last = this.locks.length - 1;
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key in steps) {
      event.preventDefault();
      const next = this.at === null && steps[event.key] !== Infinity ? 0 : (this.at ?? 0) + steps[event.key];
      this.choose(Math.max(0, Math.min(last, next)));
    } else if ((event.key === 'Enter' || event.key === ' ') && this.locks[this.at]) {
      event.preventDefault();
      this.onOpen(this.locks[this.at]);
    }
  }

  choose(number) {
    if (!this.locks[number]) return;
    this.at = number;
    const top = number * ROW;
    const { scrollTop, clientHeight } = this.scroll;
    if (top < scrollTop) this.scroll.scrollTop = top;
    else if (top + ROW > scrollTop + clientHeight) this.scroll.scrollTop = top + ROW - clientHeight;
    this.draw();
  }
}
