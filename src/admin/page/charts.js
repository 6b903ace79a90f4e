// Histograms of times, and what went on in the last two minutes. Drawn by uPlot.

import { $, h, plural, say, time } from './dom.js';

const KINDS = [
  ['acquisition', 'Acquire', 'from a call to its grant'],
  ['wait', 'Wait', 'of calls that may wait'],
  ['hold', 'Hold', 'from a grant to its release'],
  ['hand_over', 'Hand-over', 'from a release to the next grant'],
];
const HEIGHT = 150;
const SECONDS = 120;

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const short = (seconds) => (seconds < 0.001 ? `${seconds * 1e6} µs` : seconds < 1 ? `${seconds * 1000} ms` : seconds < 60 ? `${seconds} s` : `${seconds / 60} min`);

export class Charts {
  constructor() {
    this.history = { at: [], grants: [], waiting: [] };
    this.charts = new Map();
    this.figures = KINDS.map(([kind, title, says]) => this.place(kind, title, says));
    const live = this.place('live', 'Last two minutes', 'grants a second, and waiting calls');
    $('charts').append(live, ...this.figures);
    new ResizeObserver(() => this.fit()).observe($('charts'));
  }

  place(kind, title, says) {
    return h('figure', { id: `chart-${kind}` },
      h('figcaption', {}, h('b', {}, title), ' ', h('span.faint', {}, says)),
      h('div.plot'), h('p.quantiles'));
  }

  /** Colours have changed: everything is drawn anew. */
  redraw() {
    for (const chart of this.charts.values()) chart.destroy();
    this.charts.clear();
    this.history.at.length && this.drawLive();
    this.told && this.show(this.told, this.spreads);
  }

  fit() {
    for (const [kind, chart] of this.charts) chart.setSize({ width: this.width(kind), height: HEIGHT });
  }

  width(kind) { return Math.max(160, $(`chart-${kind}`).querySelector('.plot').clientWidth); }

  /** Buckets of each time, and their quantiles from LOCK.STATS. */
  show(told, spreads) {
    [this.told, this.spreads] = [told, spreads];
    for (const [kind] of KINDS) {
      const buckets = told[kind]?.buckets ?? [];
      this.bars(kind, buckets);
      const spread = spreads[kind];
      const line = $(`chart-${kind}`).querySelector('.quantiles');
      if (!told[kind]?.count) say(line, 'none yet');
      else if (spread) say(line, `p50 ${time(spread.p50)} · p95 ${time(spread.p95)} · p99 ${time(spread.p99)} · longest ${time(spread.max)} · ${plural(spread.count, 'time')}`);
      else say(line, `${plural(told[kind].count, 'time')} · average ${time((1000 * told[kind].sum_seconds) / told[kind].count)}`);
    }
  }

  bars(kind, buckets) {
    const data = [buckets.map((_, index) => index), buckets.map(({ count }) => count)];
    const known = this.charts.get(kind);
    if (known) return void known.setData(data);
    if (!buckets.length) return;
    const names = buckets.map(({ up_to }) => (up_to === null ? 'more' : short(up_to)));
    const options = {
      width: this.width(kind), height: HEIGHT, legend: { show: false }, padding: [8, 4, 0, 0],
      cursor: { points: { show: false }, drag: { x: false }, y: false },
      scales: { x: { time: false, range: [-0.6, buckets.length - 0.4] }, y: { range: (_, __, most) => [0, Math.max(1, most * 1.1)] } },
      axes: [
        { stroke: css('--faint'), grid: { show: false }, ticks: { show: false }, font: '11px system-ui', size: 26, gap: 2,
          splits: () => data[0].filter((index) => index % 3 === 1), values: (_, splits) => splits.map((index) => names[index]) },
        { stroke: css('--faint'), grid: { stroke: css('--line'), width: 1 }, ticks: { show: false }, font: '11px system-ui', size: 44, gap: 2,
          values: (_, splits) => splits.map((count) => (Number.isInteger(count) ? compact(count) : '')) },
      ],
      series: [{}, { fill: css('--accent'), stroke: css('--accent'), width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.8, 60], radius: 0.2 }) }],
    };
    this.charts.set(kind, new uPlot(options, data, $(`chart-${kind}`).querySelector('.plot')));
  }

  /** A second has passed. */
  passed(grants, waiting) {
    const { history } = this;
    history.at.push(Date.now() / 1000);
    history.grants.push(grants);
    history.waiting.push(waiting);
    if (history.at.length > SECONDS) for (const list of Object.values(history)) list.shift();
    this.drawLive();
  }

  drawLive() {
    const { at, grants, waiting } = this.history;
    const data = [at, grants, waiting];
    const known = this.charts.get('live');
    const line = $('chart-live').querySelector('.quantiles');
    say(line, `${compact(grants.at(-1))} grants a second · ${plural(waiting.at(-1), 'call')} waiting now`);
    if (known) return void known.setData(data);
    const axis = { stroke: css('--faint'), ticks: { show: false }, font: '11px system-ui', gap: 2 };
    const options = {
      width: this.width('live'), height: HEIGHT, legend: { show: false }, padding: [8, 4, 0, 0], cursor: { points: { show: false }, drag: { x: false } },
      scales: { x: { range: (_, __, most) => [most - SECONDS, most] }, y: { range: (_, __, most) => [0, Math.max(4, most * 1.15)] } },
      axes: [{ ...axis, grid: { show: false }, size: 26, space: 70, values: (_, splits) => splits.map((s) => new Date(s * 1000).toTimeString().slice(0, 8)) },
        { ...axis, grid: { stroke: css('--line'), width: 1 }, size: 44, values: (_, splits) => splits.map((count) => (Number.isInteger(count) ? compact(count) : '')) }],
      series: [{}, { stroke: css('--accent'), width: 2, fill: css('--accent-soft'), points: { show: false } },
        { stroke: css('--warm'), width: 2, points: { show: false } }],
    };
    this.charts.set('live', new uPlot(options, data, $('chart-live').querySelector('.plot')));
  }
}

export const compact = (count) => new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 }).format(count ?? 0);
