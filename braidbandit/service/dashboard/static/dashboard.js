// Plots, a pause button, and a word when the service does not answer.
"use strict";
(() => {
  const pause = document.getElementById("pause");
  const connection = document.getElementById("connection");
  const place = document.getElementById("plot");
  const said = document.getElementById("plots-said");
  const isPaused = () => pause.getAttribute("aria-pressed") === "true";
  const say = (text) => {
    if (connection.textContent !== text) connection.textContent = text;
  };

  pause.addEventListener("click", () => {
    pause.setAttribute("aria-pressed", String(!isPaused()));
  });

  // Nothing is fetched while nobody looks, or while a person reads what is open.
  document.body.addEventListener("htmx:beforeRequest", (event) => {
    const reads = event.target.querySelector("details[open]") !== null;
    if (document.hidden || isPaused() || reads) event.preventDefault();
  });

  // What says the same again is left as it is; of what is replaced, wide tables stay
  // scrolled to where they were.
  const last = new WeakMap();
  const scrolled = new Map();
  document.body.addEventListener("htmx:beforeSwap", (event) => {
    const part = event.detail.target;
    const text = event.detail.serverResponse;
    if (event.detail.xhr.status !== 200) return;
    if (last.get(part) === text) event.detail.shouldSwap = false;
    last.set(part, text);
    for (const wide of part.querySelectorAll(".wide")) {
      scrolled.set(wide.id, wide.scrollLeft);
    }
  });
  document.body.addEventListener("htmx:afterSwap", (event) => {
    for (const wide of event.detail.target.querySelectorAll(".wide")) {
      wide.scrollLeft = scrolled.get(wide.id) ?? 0;
    }
  });

  const gone = () => say("The service does not answer; what is shown is old.");
  document.body.addEventListener("htmx:sendError", gone);
  document.body.addEventListener("htmx:timeout", gone);
  document.body.addEventListener("htmx:responseError", gone);
  document.body.addEventListener("htmx:afterOnLoad", () => say(""));

  let plot = null;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const options = () => {
    const axis = { stroke: colour("--text"), grid: { stroke: colour("--line") } };
    return {
      width: place.clientWidth,
      height: 240,
      scales: { x: { time: false }, y: { range: [0, 1] } },
      axes: [{ ...axis, label: "rating" }, axis],
      series: [
        { label: "rating" },
        { label: "reward", stroke: colour("--reward"), width: 2 },
        { label: "cost", stroke: colour("--cost"), width: 2, dash: [6, 4] },
      ],
    };
  };

  const draw = (columns) => {
    const data = [columns.rating, columns.reward, columns.cost];
    const n = columns.rating.length;
    if (n < 2) return;
    const newest = (name) => columns[name][n - 1].toFixed(2);
    said.textContent = `Now: reward ${newest("reward")}, solid line; cost ${newest("cost")}, dashed line.`;
    if (plot === null) plot = new uPlot(options(), data, place);
    else plot.setData(data);
  };

  const anew = () => {
    if (plot === null) return;
    const data = plot.data;
    plot.destroy();
    plot = new uPlot(options(), data, place);
  };
  dark.addEventListener("change", anew);
  window.addEventListener("resize", () => {
    if (plot !== null) plot.setSize({ width: place.clientWidth, height: 240 });
  });

  const refresh = async () => {
    if (document.hidden || isPaused()) return;
    try {
      const answer = await fetch("/dashboard/series");
      if (answer.ok) draw(await answer.json());
    } catch {
      gone();
    }
  };
  refresh();
  setInterval(refresh, 2000);
})();
