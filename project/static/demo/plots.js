/** Two small plots: how long the first token took, and how many came a second. */

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [240, 56]; // of both plots' viewBox
const ANSWERS = 12; // bars
const TICK = 500; // milliseconds between points
const POINTS = 60;
const CHARS = 4; // to a token, about; until the model says how many there were

/** Return the height of a value where `top` is the plot's. */
const heightOf = (value, top) => (top > 0 ? (value / top) * (HEIGHT - 4) : 0);

/** Return the points of a line through `values`, newest at the right. */
export function pointsOf(values, top) {
  const step = WIDTH / (POINTS - 1);
  const left = WIDTH - (values.length - 1) * step;
  const at = (value, index) => [left + index * step, HEIGHT - 1 - heightOf(value, top)];
  return values.map((value, index) => at(value, index).map((it) => it.toFixed(1))).join(" ");
}

/**
 * Draw what the events of runs say. `first` and `rate` are `{ svg, figure, note }`: where to draw,
 * and where to say it. Return `{ take }`, which gets every `chatstream:event`.
 */
export function createPlots({ first, rate }) {
  const waits = createBars(first);
  const speed = createLine(rate);
  let open = null;

  function begin() {
    end();
    open = { askedAt: performance.now(), firstAt: null, chars: 0 };
    Object.assign(open, { state: "", isWhole: false, isBehind: false });
    open.timer = setInterval(tick, TICK);
    speed.clear();
  }

  function tick() {
    if (open.isWhole && open.firstAt === null) waits.grow(performance.now() - open.askedAt);
    if (open.firstAt === null) return;
    // What comes at once after a pause was written during it.
    speed.add(open.isBehind ? 0 : open.chars / CHARS / (TICK / 1000));
    open.isBehind = open.state === "reconnecting";
    open.chars = 0;
  }

  function text(piece) {
    const now = performance.now();
    if (open.firstAt === null && open.isWhole) waits.grow(now - open.askedAt, true);
    open.firstAt ??= now;
    open.chars += piece.length;
  }

  function end(usage) {
    if (!open) return;
    clearInterval(open.timer);
    const seconds = (performance.now() - open.firstAt) / 1000;
    const tokens = usage?.completion_tokens;
    if (open.isWhole && open.firstAt !== null && tokens) speed.tell(tokens, seconds);
    open = null;
  }

  return {
    take(event) {
      if (event.type === "state" && event.state === "connecting") begin();
      if (!open) return;
      if (event.type === "state") open.state = event.state;
      if (open.state === "reconnecting") open.isBehind = true;
      if (event.type === "created") {
        open.isWhole = true; // not one that began before this page did
        waits.start();
      }
      if (event.type === "text" || event.type === "reasoning") text(event.text);
      if (event.type === "end") end(event.usage);
    },
  };
}

function createBars({ svg, figure, note }) {
  const width = WIDTH / ANSWERS;
  let values = []; // milliseconds

  function draw() {
    const top = Math.max(...values);
    const bars = values.map((value, at) => {
      const height = Math.max(1, heightOf(value, top));
      return make("rect", { x: at * width, y: HEIGHT - height, width: width - 3, height, rx: 1.5 });
    });
    svg.replaceChildren(...bars);
    if (values.length > 1) note.textContent = `${values.length} answers; highest ${seconds(top)}`;
  }

  return {
    start() {
      values = [...values, 0].slice(-ANSWERS);
    },
    grow(milliseconds, isFinal = false) {
      values[values.length - 1] = milliseconds;
      figure.textContent = isFinal ? seconds(milliseconds) : `${seconds(milliseconds)}…`;
      draw();
    },
  };
}

function createLine({ svg, figure, note }) {
  const line = make("polyline", { fill: "none" });
  let values = [];
  svg.replaceChildren(line);

  function draw() {
    line.setAttribute("points", pointsOf(values, Math.max(...values, 1)));
  }

  return {
    clear() {
      values = [];
      draw();
    },
    add(perSecond) {
      values = [...values, perSecond].slice(-POINTS);
      figure.textContent = `≈ ${perSecond.toFixed(0)}/s`;
      const top = Math.max(...values).toFixed(0);
      note.textContent = `${CHARS} characters counted as a token; highest ${top}/s`;
      draw();
    },
    /** Say the average, now that the model has told the number of tokens. */
    tell(tokens, duration) {
      figure.textContent = `${(tokens / Math.max(duration, 0.001)).toFixed(1)}/s`;
      note.textContent = `${tokens} tokens in ${seconds(duration * 1000)}, as the model counts them`;
    },
  };
}

const seconds = (milliseconds) => `${(milliseconds / 1000).toFixed(2)} s`;

function make(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
