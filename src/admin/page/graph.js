// Who waits for whom, drawn: holders on the right, those who wait to their left. What runs in a circle is red.

import { h, idOf, plural, shown, svg, ticking } from './dom.js';

/** Waits that are drawn, the longest first; all of them stand in the list below, up to LISTED_MAX. */
const DRAWN_MAX = 40;
const LISTED_MAX = 200;
/** Of those who wait for the same key and hold nothing themselves, so many have a box of their own. */
const ALIKE_MAX = 2;
const BOX = { width: 132, height: 28, gapX: 104, gapY: 12 };

/** Owners as nodes in columns and rows, waits as links between them. Pure. */
export function layout(edges) {
  const nodes = new Map();
  const node = (id, text) => nodes.get(id) ?? nodes.set(id, { id, text, to: [], column: 0 }).get(id);
  const holders = new Set(edges.map((edge) => idOf(edge.holder)));
  const alike = new Map();
  const links = [];
  for (const edge of edges) {
    const place = `${idOf(edge.resource)} ${idOf(edge.holder)}`;
    const others = alike.get(place) ?? alike.set(place, { count: 0, link: null }).get(place);
    const isPlain = !holders.has(idOf(edge.waiter));
    if (isPlain && ++others.count > ALIKE_MAX) {
      if (others.link) {
        others.link.from.text = `${++others.link.more} more`;
        continue;
      }
      others.link = link(node(`more ${place}`, '1 more'), node(idOf(edge.holder), shown(edge.holder)), edge, 1);
      continue;
    }
    link(node(idOf(edge.waiter), shown(edge.waiter)), node(idOf(edge.holder), shown(edge.holder)), edge, 0);
  }
  function link(from, to, edge, more) {
    const made = { from, to, edge, more, inCircle: false, resource: shown(edge.resource) };
    from.to.push(made);
    links.push(made);
    return made;
  }
  const reaches = (from, wanted, seen = new Set()) =>
    from === wanted || (!seen.has(from) && Boolean(seen.add(from)) && from.to.some((next) => reaches(next.to, wanted, seen)));
  for (const one of links) one.inCircle = reaches(one.to, one.from);
  const all = [...nodes.values()];
  columns(all);
  return { nodes: all, links, columns: Math.max(0, ...all.map((one) => one.column)) + 1, rows: rows(all) };
}

/** So many steps away from whoever waits for nobody; a circle goes down one column and up the next. */
function columns(nodes) {
  const isRed = (node) => node.to.some((link) => link.inCircle);
  const done = new Set();
  for (const first of nodes.filter(isRed)) {
    const ring = [];
    for (let node = first; node && !done.has(node); node = node.to.find((link) => link.inCircle)?.to) {
      done.add(node);
      ring.push(node);
    }
    const down = Math.ceil(ring.length / 2);
    ring.forEach((node, number) => { node.ring = { first, column: number < down ? 0 : 1, row: number < down ? number : ring.length - 1 - number, rows: down }; });
  }
  const depth = (node) => (node.column = node.ring?.column ?? node.column) || (node.ring ? 0 : node.to.reduce((most, link) => Math.max(most, 1 + depth(link.to)), 0));
  for (const node of nodes) node.column = depth(node);
}

/** Each beside those that it waits for: what waits for one owner stands together. Returns how many rows there are. */
function rows(nodes) {
  const waiters = new Map();
  for (const node of nodes) for (const link of node.to) waiters.set(link.to, [...(waiters.get(link.to) ?? []), node]);
  let next = 0;
  const place = (node) => {
    if (node.row !== undefined) return;
    node.row = -1;
    const behind = (waiters.get(node) ?? []).filter((waiter) => waiter.row === undefined && !waiter.ring);
    behind.forEach(place);
    node.row = behind.length ? (behind[0].row + behind.at(-1).row) / 2 : next++;
  };
  for (const node of nodes.filter((node) => node.ring)) {
    if (node.ring.first.base === undefined) {
      node.ring.first.base = next;
      next += node.ring.rows;
    }
    node.row = node.ring.first.base + node.ring.row;
  }
  for (const node of nodes.filter((node) => node.ring)) (waiters.get(node) ?? []).forEach(place);
  for (const node of nodes.filter((node) => !node.to.length)) place(node);
  nodes.forEach(place);
  return next;
}

export function draw(place, edges) {
  if (!edges.length) return void place.replaceChildren(h('p.empty', {}, 'Nobody waits.'));
  const { nodes, links, columns: across, rows: down } = layout(edges.slice(0, DRAWN_MAX));
  const width = across * BOX.width + (across - 1) * BOX.gapX + 60;
  const height = down * (BOX.height + BOX.gapY) + 16;
  const x = (node) => 4 + (across - 1 - node.column) * (BOX.width + BOX.gapX);
  const y = (node) => 8 + node.row * (BOX.height + BOX.gapY);
  const drawing = svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', class: 'waits' });
  drawing.style.maxWidth = `${width}px`;
  drawing.setAttribute('aria-label', `${plural(edges.length, 'wait')}, listed below`);
  drawing.append(arrow('arrow'), arrow('arrow-red'));
  const named = new Set();
  const names = [];
  for (const link of links) {
    const { path, at } = linkDrawn(link, x, y);
    drawing.append(path);
    // Those who wait for the same key share its name.
    const name = `${link.resource} ${link.to.id}`;
    if (named.has(name)) continue;
    named.add(name);
    names.push(svg('text', { x: at[0], y: at[1], class: 'edge-name' }, cut(link.resource, 16), svg('title', {}, link.resource)));
  }
  for (const node of nodes) {
    const isRed = node.to.some((link) => link.inCircle);
    const kind = isRed ? 'owner circle' : node.to.length ? 'owner waits' : 'owner holds';
    drawing.append(svg('g', { class: kind, transform: `translate(${x(node)} ${y(node)})` },
      svg('rect', { width: BOX.width, height: BOX.height, rx: 8 }),
      svg('text', { x: BOX.width / 2, y: BOX.height / 2 + 4 }, cut(node.text, 17)),
      svg('title', {}, node.text)));
  }
  drawing.append(...names);
  place.replaceChildren(h('div.drawing', {}, drawing), listOf(place, edges));
}

function listOf(place, edges) {
  const listed = edges.slice(0, LISTED_MAX);
  return h('details', { open: place.querySelector('details')?.open },
    h('summary', {}, listed.length < edges.length ? `As a list (the longest ${LISTED_MAX} of ${edges.length})` : 'As a list'),
    h('ul.plain', {}, listed.map((edge) => h('li', {},
      h('bdi', {}, shown(edge.waiter)), ' waits for ', h('b', {}, h('bdi', {}, shown(edge.resource))), ', held by ',
      h('bdi', {}, shown(edge.holder)), h('span.faint', {}, ` · ${ticking(edge.waited)}`)))));
}

function linkDrawn({ from, to, inCircle }, x, y) {
  const goesRight = x(to) > x(from);
  const inColumn = x(to) === x(from);
  const ax = x(from) + (goesRight || inColumn ? BOX.width : 0);
  const bx = x(to) + (goesRight ? 0 : BOX.width);
  // There and back again take different heights of the same boxes.
  const shift = inCircle ? (goesRight ? -6 : 6) : 0;
  const [ay, by] = [y(from) + BOX.height / 2 + shift, y(to) + BOX.height / 2 + shift];
  const bend = inColumn ? 44 : (bx - ax) / 2;
  const tip = goesRight ? bx - 5 : bx + 5;
  const path = svg('path', {
    d: `M${ax} ${ay} C${ax + bend} ${ay}, ${inColumn ? bx + bend : bx - bend} ${by}, ${tip} ${by}`,
    class: inCircle ? 'edge circle' : 'edge', 'marker-end': `url(#${inCircle ? 'arrow-red' : 'arrow'})`,
  });
  const at = inColumn ? [ax + 36, (ay + by) / 2] : [(ax + bx) / 2, (ay + by) / 2 + (inCircle && !goesRight ? 11 : -5)];
  return { path, at };
}

function arrow(id) {
  return svg('marker', { id, viewBox: '0 0 8 8', refX: 4, refY: 4, markerWidth: 7, markerHeight: 7, orient: 'auto' },
    svg('path', { d: 'M0 0 8 4 0 8z' }));
}

const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
