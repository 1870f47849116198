'use strict';
// Columns of a call, in the order in which the exporter writes them.
const AT = 0, DUR = 1, QUEUE = 2, SERVICE = 3, CLIENT = 4, SERVER = 5, IFACE = 6, METHOD = 7, RESULT = 8,
  FAILED = 9, ONEWAY = 10, SIZE = 11, REPLY_SIZE = 12, ID = 13, NAME = 14, ARGS = 15, VALUES = 16;
const data = JSON.parse(document.getElementById('data').textContent);
const { strings, calls } = data;
const byId = (id) => document.getElementById(id);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const threads = data.threads.map(([guest, pid, proc, tid, name]) => ({
  guest: strings[guest], pid, proc: strings[proc] || `pid ${pid}`, tid, name: strings[name],
}));
const processName = (t) => (several ? `${t.guest} ` : '') + `${t.proc} (${t.pid})`;
const several = new Set(threads.map((t) => t.guest)).size > 1;
const methodName = (c) => `${strings[c[IFACE]] || '?'}.${strings[c[METHOD]]}`;

function time(ns) {
  if (ns < 0) return '-';
  if (ns < 1e4) return `${ns} ns`;
  if (ns < 1e7) return `${(ns / 1e3).toPrecision(4)} us`;
  if (ns < 1e10) return `${(ns / 1e6).toPrecision(4)} ms`;
  return `${(ns / 1e9).toPrecision(5)} s`;
}
const bytes = (n) => (n < 10240 ? `${n} B` : n < 10485760 ? `${(n / 1024).toFixed(1)} K` : `${(n / 1048576).toFixed(1)} M`);
function element(name, text, className) {
  const e = document.createElement(name);
  if (text !== undefined) e.textContent = text;
  if (className) e.className = className;
  return e;
}

// ---- what it is about
{
  const of = data.recordings.map((r) =>
    `${r.guests.join(', ')}: ${r.image || 'a kernel'} on the ${r.engine} engine` + (r.command.length ? `, ${r.command.join(' ')}` : ''));
  byId('what').textContent = of.join('; ');
  document.title = `binder trace of ${data.recordings.map((r) => r.guests.join(', ')).join(', ')}`;
  const failed = calls.filter((c) => c[FAILED]).length;
  const sum = (column) => calls.reduce((n, c) => n + c[column], 0);
  const numbers = [
    ['calls', calls.length], ['oneway', sum(ONEWAY)], ['failed', failed],
    ['bytes sent', bytes(sum(SIZE))], ['bytes replied', bytes(sum(REPLY_SIZE))],
    ['processes', new Set(threads.map(processName)).size],
  ];
  if (data.left_out) numbers.push(['calls left out', data.left_out]);
  if (data.lost) numbers.push(['lost', data.lost]);
  for (const [name, value] of numbers) {
    const box = element('div');
    box.append(element('dt', name), element('dd', String(value)));
    byId('numbers').append(box);
  }
}

// ---- timeline: a row a thread; a call is a slice at its client and one at its server
const canvas = byId('canvas');
const ROW = 15, TRACK_GAP = 5, LABEL = 230, AXIS = 22;
let first = Infinity, last = -Infinity;
const tracks = new Map();
function track(thread) {
  if (!tracks.has(thread)) tracks.set(thread, { thread, slices: [], depth: 1, y: 0 });
  return tracks.get(thread);
}
calls.forEach((c, i) => {
  const end = c[AT] + Math.max(c[DUR], c[QUEUE] + Math.max(c[SERVICE], 0), 0);
  first = Math.min(first, c[AT]);
  last = Math.max(last, end);
  track(c[CLIENT]).slices.push({ i, from: c[AT], to: c[AT] + Math.max(c[ONEWAY] ? 0 : c[DUR], 0), server: false, depth: 0 });
  if (c[SERVER] >= 0 && c[QUEUE] >= 0 && threads[c[SERVER]].tid) {
    const at = c[AT] + c[QUEUE];
    track(c[SERVER]).slices.push({ i, from: at, to: at + Math.max(c[SERVICE], 0), server: true, depth: 0 });
  }
});
if (!calls.length) { first = 0; last = 1; }
const rows = [...tracks.values()].sort((a, b) => {
  const x = threads[a.thread], y = threads[b.thread];
  return x.guest.localeCompare(y.guest) || x.pid - y.pid || x.tid - y.tid;
});
let height = AXIS;
for (const t of rows) {
  t.slices.sort((a, b) => a.from - b.from || b.to - a.to);
  const open = [];
  for (const s of t.slices) {
    while (open.length && open[open.length - 1] <= s.from) open.pop();
    s.depth = Math.min(open.length, 7);
    open.push(s.to);
    t.depth = Math.max(t.depth, s.depth + 1);
  }
  t.longest = t.slices.reduce((n, s) => Math.max(n, s.to - s.from), 0);
  t.y = height;
  height += t.depth * ROW + TRACK_GAP;
}
const padding = Math.max((last - first) * 0.01, 1);
const whole = { from: first - padding, to: last + padding };
const view = { ...whole };
let picked = -1, matches = null, scroll = 0, wanted = false;
const visible = () => Math.min(Math.max(height + 4, 80), 560);

const plot = () => canvas.clientWidth - LABEL;
const toX = (t) => LABEL + ((t - view.from) / (view.to - view.from)) * plot();
const toTime = (x) => view.from + ((x - LABEL) / plot()) * (view.to - view.from);
function redraw() {
  if (!wanted) { wanted = true; requestAnimationFrame(draw); }
}
function draw() {
  wanted = false;
  const scale = window.devicePixelRatio || 1, w = canvas.clientWidth, h = visible();
  canvas.style.height = `${h}px`;
  if (canvas.width !== Math.round(w * scale) || canvas.height !== Math.round(h * scale)) {
    canvas.width = Math.round(w * scale);
    canvas.height = Math.round(h * scale);
  }
  const g = canvas.getContext('2d');
  g.setTransform(scale, 0, 0, scale, 0, 0);
  g.fillStyle = css('--paper');
  g.fillRect(0, 0, w, h);
  const color = { client: css('--client'), server: css('--server'), oneway: css('--oneway'), bad: css('--bad'),
    pick: css('--pick'), ink: css('--ink'), dim: css('--dim'), line: css('--line'), shade: css('--shade') };
  g.font = '11px system-ui, sans-serif';
  g.textBaseline = 'middle';
  let before = null;
  for (const t of rows) {
    const y = t.y - scroll, rowHeight = t.depth * ROW;
    const thread = threads[t.thread];
    if (y + rowHeight < AXIS || y > h) { before = thread; continue; }
    g.fillStyle = color.shade;
    g.fillRect(LABEL, y, w - LABEL, rowHeight);
    g.fillStyle = color.ink;
    const same = before && before.guest === thread.guest && before.pid === thread.pid;
    const name = thread.name && thread.name !== thread.proc ? ` ${thread.name}` : '';
    const label = same ? `    ${thread.tid}${name}` : `${processName(thread)} ${thread.tid === thread.pid ? '' : thread.tid}${name}`;
    g.save();
    g.beginPath();
    g.rect(0, AXIS, LABEL - 6, h);
    g.clip();
    g.fillText(label, 6, y + ROW / 2);
    g.restore();
    before = thread;
    // From the first slice that can reach into the view; slices of less than a pixel are drawn once.
    let low = 0, high = t.slices.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (t.slices[middle].from < view.from - t.longest) low = middle + 1; else high = middle;
    }
    const drawn = new Array(8).fill(-1);
    for (let n = low; n < t.slices.length && t.slices[n].from <= view.to; n++) {
      const s = t.slices[n];
      if (s.to < view.from) continue;
      const c = calls[s.i];
      const x = Math.max(toX(s.from), LABEL), end = Math.max(toX(s.to), x + 1);
      const marked = s.i === picked;
      if (end <= drawn[s.depth] && !marked) continue;
      drawn[s.depth] = Math.floor(end);
      g.globalAlpha = matches && !matches.has(s.i) ? 0.15 : 1;
      g.fillStyle = marked ? color.pick : c[FAILED] ? color.bad : c[ONEWAY] ? color.oneway : s.server ? color.server : color.client;
      g.fillRect(x, y + s.depth * ROW + 1, end - x, ROW - 2);
      if (end - x > 40) {
        g.fillStyle = '#fff';
        g.save();
        g.beginPath();
        g.rect(x, y + s.depth * ROW, end - x - 2, ROW);
        g.clip();
        g.fillText(`${strings[c[METHOD]]} ${strings[c[IFACE]]}`, x + 3, y + s.depth * ROW + ROW / 2);
        g.restore();
      }
    }
    g.globalAlpha = 1;
  }
  arrow(g, color.pick);
  axis(g, w, color);
}
function axis(g, w, color) {
  g.fillStyle = css('--paper');
  g.fillRect(0, 0, w, AXIS);
  const span = view.to - view.from, rough = span / Math.max(plot() / 120, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  g.strokeStyle = color.line;
  g.fillStyle = color.dim;
  for (let t = Math.ceil(view.from / step) * step; t < view.to; t += step) {
    const x = toX(t);
    g.beginPath();
    g.moveTo(x, AXIS - 5);
    g.lineTo(x, visible());
    g.stroke();
    const digits = Math.min(Math.max(0, 3 - Math.floor(Math.log10(step / 1e6))), 6);
    g.fillText(`${(t / 1e6).toFixed(Math.max(digits - 2, 0))} ms`, x + 3, AXIS / 2);
  }
}
// From the picked call's client to its server.
function arrow(g, color) {
  if (picked < 0) return;
  const c = calls[picked], from = tracks.get(c[CLIENT]), to = tracks.get(c[SERVER]);
  if (!to || c[QUEUE] < 0) return;
  const x1 = toX(c[AT]), x2 = toX(c[AT] + c[QUEUE]);
  const y1 = from.y - scroll + ROW / 2, y2 = to.y - scroll + ROW / 2;
  if (Math.max(x1, x2) < LABEL) return;
  g.strokeStyle = color;
  g.lineWidth = 1.5;
  g.beginPath();
  g.moveTo(x1, y1);
  g.bezierCurveTo(x1 + 25, y1, x2 - 25, y2, x2, y2);
  g.stroke();
  g.lineWidth = 1;
}
function zoom(factor, at) {
  const span = Math.min(Math.max((view.to - view.from) * factor, 100), (whole.to - whole.from) * 1.2);
  const share = (at - view.from) / (view.to - view.from);
  view.from = at - span * share;
  view.to = view.from + span;
  redraw();
}
function move(share) {
  const by = (view.to - view.from) * share;
  if (view.to + by < whole.from || view.from + by > whole.to) return;
  view.from += by;
  view.to += by;
  redraw();
}
function sliceAt(x, y) {
  if (x < LABEL) return null;
  y += scroll;
  const t = rows.find((row) => y >= row.y && y < row.y + row.depth * ROW);
  if (!t) return null;
  const depth = Math.floor((y - t.y) / ROW), at = toTime(x), slack = toTime(x + 2) - at;
  let best = null;
  for (const s of t.slices) {
    if (s.from > at + slack) break;
    if (s.depth === depth && s.to >= at - slack && (!best || s.from >= best.from)) best = s;
  }
  return best;
}
function describe(c) {
  const client = threads[c[CLIENT]], server = c[SERVER] >= 0 ? threads[c[SERVER]] : null;
  return [
    ['call', `${methodName(c)}(${strings[c[ARGS]]})`],
    ['result', strings[c[RESULT]] + (strings[c[VALUES]] ? `: ${strings[c[VALUES]]}` : '')],
    ['from', `${processName(client)}, thread ${client.tid}`],
    ['to', server ? `${processName(server)}${server.tid ? `, thread ${server.tid}` : ''}` : 'nobody'],
    ['service', strings[c[NAME]]],
    ['at', `${(c[AT] / 1e9).toFixed(9)} s`],
    ['total', time(c[DUR])],
    ['in the queue', time(c[QUEUE])],
    ['served', time(c[SERVICE])],
    ['bytes', `${c[SIZE]} sent, ${c[REPLY_SIZE]} back`],
    ['transaction', String(c[ID])],
  ].filter(([, value]) => value && value !== '-');
}
function pick(i, show) {
  picked = i;
  const table = byId('details');
  table.replaceChildren();
  if (i >= 0) {
    for (const [name, value] of describe(calls[i])) {
      const row = element('tr');
      row.append(element('th', name), element('td', value));
      table.append(row);
    }
    if (show) {
      const c = calls[i], span = Math.max((c[DUR] > 0 ? c[DUR] : 1000) * 4, 100);
      const middle = c[AT] + Math.max(c[DUR], 0) / 2;
      view.from = middle - span / 2;
      view.to = middle + span / 2;
      const row = tracks.get(c[CLIENT]);
      if (row.y - scroll < AXIS || row.y - scroll > visible() - 40) {
        scroll = Math.max(0, Math.min(row.y - 80, height - visible() + 4));
      }
    }
  }
  redraw();
}
canvas.addEventListener('wheel', (e) => {
  e.preventDefault();
  if (e.shiftKey || (e.offsetX < LABEL && height > visible())) {
    scroll = Math.max(0, Math.min(scroll + e.deltaY, height - visible() + 4));
    redraw();
  } else if (Math.abs(e.deltaX) > Math.abs(e.deltaY)) move(e.deltaX / plot());
  else zoom(Math.exp(e.deltaY * 0.0015), toTime(Math.max(e.offsetX, LABEL)));
}, { passive: false });
let drag = null;
canvas.addEventListener('pointerdown', (e) => {
  drag = { x: e.offsetX, y: e.offsetY, moved: false };
  canvas.setPointerCapture(e.pointerId);
});
canvas.addEventListener('pointermove', (e) => {
  const tip = byId('tip');
  if (drag) {
    if (Math.abs(e.offsetX - drag.x) + Math.abs(e.offsetY - drag.y) > 3) drag.moved = true;
    if (drag.moved) {
      move((drag.x - e.offsetX) / plot());
      scroll = Math.max(0, Math.min(scroll + drag.y - e.offsetY, Math.max(height - visible() + 4, 0)));
      drag.x = e.offsetX;
      drag.y = e.offsetY;
    }
    tip.hidden = true;
    return;
  }
  const s = sliceAt(e.offsetX, e.offsetY);
  tip.hidden = !s;
  if (s) {
    tip.textContent = describe(calls[s.i]).map(([name, value]) => `${name}: ${value}`).join('\n');
    tip.style.left = `${Math.min(e.offsetX + 14, canvas.clientWidth - 380)}px`;
    tip.style.top = `${Math.min(e.offsetY + 14, visible() - 60)}px`;
  }
});
canvas.addEventListener('pointerup', (e) => {
  if (drag && !drag.moved) {
    const s = sliceAt(e.offsetX, e.offsetY);
    pick(s ? s.i : -1, false);
  }
  drag = null;
});
canvas.addEventListener('pointerleave', () => { byId('tip').hidden = true; });
window.addEventListener('resize', redraw);
function step(by) {
  if (!calls.length) return;
  let i = picked;
  do i += by; while (i >= 0 && i < calls.length && matches && !matches.has(i));
  if (i >= 0 && i < calls.length) pick(i, true);
}
document.addEventListener('keydown', (e) => {
  if (e.target.matches('input, select')) {
    if (e.key === 'Escape') e.target.blur();
    return;
  }
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  const middle = (view.from + view.to) / 2;
  const keys = {
    w: () => zoom(0.7, middle), s: () => zoom(1.4, middle), a: () => move(-0.2), d: () => move(0.2),
    '+': () => zoom(0.7, middle), '-': () => zoom(1.4, middle), ArrowLeft: () => move(-0.2), ArrowRight: () => move(0.2),
    0: () => { Object.assign(view, whole); redraw(); }, n: () => step(1), p: () => step(-1), Escape: () => pick(-1),
    '/': () => byId('find').focus(),
  };
  if (keys[e.key]) {
    e.preventDefault();
    keys[e.key]();
  }
});
byId('find').addEventListener('input', (e) => find(e.target.value));
function find(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  matches = words.length ? new Set() : null;
  if (matches) {
    calls.forEach((c, i) => {
      const all = `${methodName(c)} ${strings[c[NAME]]} ${strings[c[RESULT]]} ${processName(threads[c[CLIENT]])} ${c[SERVER] >= 0 ? processName(threads[c[SERVER]]) : ''}`.toLowerCase();
      if (words.every((word) => all.includes(word))) matches.add(i);
    });
  }
  byId('found').textContent = matches ? `${matches.size} of ${calls.length} calls` : '';
  redraw();
}

// ---- tables
const quantile = (sorted, q) => (sorted.length ? sorted[Math.min(sorted.length - 1, Math.ceil(q * sorted.length) - 1)] : -1);
const sorted = (list) => list.filter((n) => n >= 0).sort((a, b) => a - b);
const methods = new Map();
calls.forEach((c, i) => {
  const name = methodName(c);
  if (!methods.has(name)) methods.set(name, { name, calls: [], failed: 0, bytes: 0 });
  const m = methods.get(name);
  m.calls.push(i);
  m.failed += c[FAILED];
  m.bytes += c[SIZE] + c[REPLY_SIZE];
});
for (const m of methods.values()) {
  const of = (column) => sorted(m.calls.map((i) => calls[i][column]));
  m.queue = of(QUEUE);
  m.service = of(SERVICE);
  m.total = of(DUR);
}
function fill(table, columns, rowsOf, onPick, order) {
  let by = order, down = true;
  const head = element('thead'), body = element('tbody'), line = element('tr');
  columns.forEach((column, n) => {
    const th = element('th', column.title, column.text ? 'text' : '');
    th.addEventListener('click', () => { down = by === n ? !down : !column.text; by = n; show(); });
    line.append(th);
  });
  head.append(line);
  table.replaceChildren(head, body);
  function show() {
    const key = columns[by].key;
    const list = [...rowsOf].sort((a, b) => {
      const x = key(a), y = key(b), n = typeof x === 'string' ? x.localeCompare(y) : x - y;
      return down ? -n : n;
    }).slice(0, 1000);
    body.replaceChildren(...list.map((item) => {
      const row = element('tr', undefined, columns.bad && columns.bad(item) ? 'bad' : '');
      for (const column of columns) row.append(element('td', column.show(item), column.text ? 'text' : ''));
      row.addEventListener('click', () => onPick(item));
      return row;
    }));
  }
  show();
}
const p = (title, list, q) => ({ title: `${title} p${q}`, key: (m) => quantile(m[list], q / 100), show: (m) => time(quantile(m[list], q / 100)) });
const methodColumns = [
  { title: 'method', text: true, key: (m) => m.name, show: (m) => m.name },
  { title: 'calls', key: (m) => m.calls.length, show: (m) => String(m.calls.length) },
  { title: 'errors', key: (m) => m.failed, show: (m) => String(m.failed) },
  { title: 'bytes', key: (m) => m.bytes, show: (m) => bytes(m.bytes) },
  p('queue', 'queue', 50), p('queue', 'queue', 99), p('service', 'service', 50), p('service', 'service', 99),
  p('total', 'total', 50), p('total', 'total', 99),
];
methodColumns.bad = (m) => m.failed > 0;
fill(byId('methods'), methodColumns, methods.values(), (m) => {
  byId('find').value = m.name;
  find(m.name);
  byId('which').value = m.name;
  histograms();
}, 1);
const failures = calls.map((c, i) => i).filter((i) => calls[i][FAILED]);
if (failures.length) {
  fill(byId('failures'), [
    { title: 'at', key: (i) => calls[i][AT], show: (i) => `${(calls[i][AT] / 1e6).toFixed(3)} ms` },
    { title: 'result', text: true, key: (i) => strings[calls[i][RESULT]], show: (i) => strings[calls[i][RESULT]] },
    { title: 'call', text: true, key: (i) => methodName(calls[i]), show: (i) => `${methodName(calls[i])}(${strings[calls[i][ARGS]]})` },
    { title: 'from', text: true, key: (i) => processName(threads[calls[i][CLIENT]]), show: (i) => processName(threads[calls[i][CLIENT]]) },
    { title: 'to', text: true, key: (i) => (calls[i][SERVER] >= 0 ? processName(threads[calls[i][SERVER]]) : ''), show: (i) => (calls[i][SERVER] >= 0 ? processName(threads[calls[i][SERVER]]) : 'nobody') },
  ], failures, (i) => { pick(i, true); byId('timeline').scrollIntoView({ block: 'center' }); }, 0);
} else byId('failures').append(element('caption', 'No call failed.'));

// ---- who calls whom: processes on a circle, an edge a pair
{
  const svg = byId('graph'), NS = 'http://www.w3.org/2000/svg';
  const make = (name, attributes, text) => {
    const e = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
    if (text !== undefined) e.textContent = text;
    return e;
  };
  const edges = new Map(), weight = new Map();
  for (const c of calls) {
    if (c[SERVER] < 0) continue;
    const from = processName(threads[c[CLIENT]]), to = processName(threads[c[SERVER]]), key = JSON.stringify([from, to]);
    if (!edges.has(key)) edges.set(key, { from, to, calls: 0, failed: 0, time: 0 });
    const e = edges.get(key);
    e.calls++;
    e.failed += c[FAILED];
    e.time += Math.max(c[SERVICE], 0);
    weight.set(from, (weight.get(from) || 0) + 1);
    weight.set(to, (weight.get(to) || 0) + 1);
  }
  const names = [...weight.keys()].sort((a, b) => weight.get(b) - weight.get(a)).slice(0, 32);
  const W = 640, H = Math.max(360, Math.min(names.length * 26, 640));
  svg.setAttribute('viewBox', `0 0 ${W} ${H}`);
  const place = new Map();
  names.sort().forEach((name, n) => {
    const angle = (n / names.length) * 2 * Math.PI - Math.PI / 2;
    place.set(name, { x: W / 2 + Math.cos(angle) * W * 0.27, y: H / 2 + Math.sin(angle) * H * 0.38, right: Math.cos(angle) >= -0.01 });
  });
  const marker = make('marker', { id: 'tip-of-edge', viewBox: '0 0 8 8', refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: 'auto-start-reverse' });
  marker.append(make('path', { d: 'M0 0 L8 4 L0 8 z', fill: css('--dim') }));
  const defs = make('defs', {});
  defs.append(marker);
  svg.append(defs);
  for (const e of [...edges.values()].sort((a, b) => a.calls - b.calls)) {
    const a = place.get(e.from), b = place.get(e.to);
    if (!a || !b) continue;
    const bend = 0.22, middle = { x: (a.x + b.x) / 2 + (b.y - a.y) * bend, y: (a.y + b.y) / 2 - (b.x - a.x) * bend };
    const d = a === b
      ? `M${a.x} ${a.y - 6} c -30 -40 30 -40 0 0`
      : `M${a.x} ${a.y} Q${middle.x} ${middle.y} ${b.x + (middle.x - b.x) * 0.06} ${b.y + (middle.y - b.y) * 0.06}`;
    const path = make('path', { d, fill: 'none', stroke: e.failed ? css('--bad') : css('--client'), 'stroke-opacity': 0.75,
      'stroke-width': 1 + Math.log2(1 + e.calls) / 2, 'marker-end': a === b ? '' : 'url(#tip-of-edge)' });
    path.append(make('title', {}, `${e.from} calls ${e.to}\n${e.calls} calls, ${e.failed} failed, served in ${time(e.time)}`));
    svg.append(path);
    if (edges.size <= 60) svg.append(make('text', { x: middle.x * 0.5 + (a.x + b.x) / 4, y: middle.y * 0.5 + (a.y + b.y) / 4, class: 'dim', 'text-anchor': 'middle' }, String(e.calls)));
  }
  for (const [name, at] of place) {
    svg.append(make('circle', { cx: at.x, cy: at.y, r: 5 + Math.log2(1 + weight.get(name)) / 2, fill: css('--server') }));
    svg.append(make('text', { x: at.x + (at.right ? 14 : -14), y: at.y + 4, 'text-anchor': at.right ? 'start' : 'end' }, name));
  }
}

// ---- latency: how often each time was, on a logarithmic axis of times
function histograms() {
  const of = byId('which').value, chosen = of ? [methods.get(of)] : [...methods.values()];
  const box = byId('histograms');
  box.replaceChildren();
  for (const [title, list, color] of [['in the queue', 'queue', '--oneway'], ['served', 'service', '--server'], ['total', 'total', '--client']]) {
    const times = sorted(chosen.flatMap((m) => m[list]));
    const c = element('canvas'), scale = window.devicePixelRatio || 1, w = 620, h = 104;
    box.append(element('p', `${title}: ${times.length} calls, p50 ${time(quantile(times, 0.5))}, p90 ${time(quantile(times, 0.9))}, p99 ${time(quantile(times, 0.99))}, most ${time(quantile(times, 1))}`), c);
    c.width = w * scale;
    c.height = h * scale;
    c.style.height = `${h}px`;
    c.style.maxWidth = `${w}px`;
    const g = c.getContext('2d');
    g.scale(scale, scale);
    if (!times.length) continue;
    const PER = 8, bucket = (t) => Math.floor(Math.log2(Math.max(t, 1)) * PER);
    const low = bucket(times[0]) - 1, high = bucket(times[times.length - 1]) + 2, counts = new Array(high - low).fill(0);
    for (const t of times) counts[bucket(t) - low]++;
    const most = Math.max(...counts), step = w / counts.length;
    g.fillStyle = css(color);
    counts.forEach((n, i) => { if (n) g.fillRect(i * step, h - 18 - (n / most) * (h - 24), Math.max(step - 1, 1), (n / most) * (h - 24)); });
    g.fillStyle = css('--dim');
    g.font = '11px system-ui, sans-serif';
    let free = -1;
    for (let power = 0; power < 12; power++) {
      for (const n of [1, 2, 5]) {
        const t = n * 10 ** power, x = (Math.log2(t) * PER - low) * step;
        if (x < 0 || x > w - 40 || x < free) continue;
        g.fillRect(x, h - 18, 1, 4);
        g.fillText(time(t).replace(/\.0+ /, ' '), x + 2, h - 4);
        free = x + 62;
      }
    }
  }
}
{
  const which = byId('which');
  const all = element('option', 'all methods');
  all.value = '';
  which.append(all, ...[...methods.values()].sort((a, b) => b.calls.length - a.calls.length).map((m) => {
    const option = element('option', `${m.name} (${m.calls.length})`);
    option.value = m.name;
    return option;
  }));
  which.addEventListener('change', histograms);
}
histograms();
// The longest failure or the longest call is what one looks for first.
redraw();
document.documentElement.dataset.ready = String(calls.length);
