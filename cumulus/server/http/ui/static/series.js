// Draws series over time by uPlot: <div data-series="ADDRESS">. A module, run after uPlot's script.

import { tick } from "./timeline/axis.js";
import { moment } from "./timeline/words.js";

const COLOURS = ["#2a78c2", "#c2572a", "#2f9e5a", "#9b59c9", "#b08a14", "#1f9aa3", "#c23a73", "#7a8794"];

function theme(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

function axis(more) {
  return {stroke: theme("--dim"), grid: {stroke: theme("--line"), width: 1}, ticks: {stroke: theme("--line"), width: 1}, ...more};
}

async function draw(element) {
  const answer = await fetch(element.dataset.series, {headers: {accept: "application/json"}, redirect: "error"});
  if (!answer.ok) throw new Error(String(answer.status));
  const {times, series, left} = await answer.json();
  const note = document.getElementById(element.dataset.note);
  if (!times.length || !series.length) {
    note.textContent = "Nobody held a share in this time.";
    element.remove();
    return;
  }
  if (left) note.textContent += ` ${left} more users held less.`;
  const size = () => ({width: element.clientWidth, height: 260});
  const plot = new uPlot({
    ...size(),
    scales: {y: {range: (_, low, high) => [0, Math.max(1, high * 1.1)]}},
    axes: [
      // The longest label, a day of the week and its date, with room beside it.
      axis({space: 96, values: (_, times, __, ___, step) => times.map(time => tick(time, step).label)}), axis({size: 44}),
    ],
    series: [{value: (_, time) => time == null ? "" : moment(time)}, ...series.map((each, number) => ({
      label: each.name, stroke: COLOURS[number % COLOURS.length], width: 2, dash: number >= COLOURS.length / 2 ? [6, 3] : [],
      value: (_, value) => value == null ? "" : value.toFixed(2),
    }))],
  }, [times, ...series.map(each => each.held)], element);
  new ResizeObserver(() => plot.setSize(size())).observe(element);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { plot.destroy(); draw(element); });
}

for (const element of document.querySelectorAll("[data-series]")) draw(element).catch(() => {
  const note = document.getElementById(element.dataset.note);
  if (note) note.textContent = "What was held cannot be shown now.";
});
