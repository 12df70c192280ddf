// The scores of a run: a row for each metric, a column for each version that made it, the better value marked.

import { make } from "./make.js";

// Which way a metric improves, as musubi_ext.evaluation.metrics has it; the others are neither better nor worse.
export const LOWER = ["subject_drift", "subject_drift_compensated", "subject_drift_from_truth", "temporal_flicker",
  "luminance_flicker", "orbit_angular_jerk", "orbit_steadiness", "lpips", "swept_angle_error", "camera_pan_error",
  "camera_roll_error", "camera_zoom_error", "objmc"];
export const HIGHER = ["orbit_loop_closure", "orbit_direction_correct", "direction_correct", "direction_subject_correct",
  "psnr", "ssim", "mask_iou", "subject_consistency", "vbench_sc_circle_rotate", "clip_i_first_last", "clip_i_frame_acc",
  "clip_i_global_avg"];
const ACRONYMS = { clip: "CLIP", lpips: "LPIPS", psnr: "PSNR", ssim: "SSIM", iou: "IoU" };

export const metricName = (name) => {
  const words = name.split("_").map((word) => ACRONYMS[word] ?? word).join(" ");
  return words[0].toUpperCase() + words.slice(1);
};

export function inWords(name, { value, unit }) {
  if (unit === "0/1") return value ? "yes" : "no";
  if (unit === "sign") return value > 0 ? "right to left" : value < 0 ? "left to right" : "none";
  const number = String(Number(value.toPrecision(3)));
  if (unit === "deg") return `${number}°`;
  return ["", "1", "fraction", "cosine"].includes(unit) ? number : `${number} ${unit}`;
}

// `jobs`: those that are completed, in the order of their columns. Null when nothing was measured.
export function scoreTable(jobs, names) {
  const metrics = [...new Set(jobs.flatMap((job) => Object.keys(job.scores ?? {})))];
  if (!metrics.length) return null;
  const table = make("table", "", { class: "scores" }), body = make("tbody");
  table.append(make("caption", "scores", { class: "unseen" }));
  if (jobs.length > 1) {
    const head = make("tr");
    head.append(make("td"), ...names.map((name) => make("th", name, { scope: "col" })));
    table.append(make("thead"));
    table.tHead.append(head);
  }
  for (const metric of metrics) {
    const row = make("tr"), best = jobs.length > 1 ? bestOf(metric, jobs) : null;
    row.append(make("th", metricName(metric), { scope: "row" }));
    for (const job of jobs) row.append(cell(metric, job.scores?.[metric], best));
    body.append(row);
  }
  table.append(body);
  return table;
}

// The best value of several that differ.
function bestOf(metric, jobs) {
  const values = jobs.map((job) => job.scores?.[metric]?.value).filter((value) => typeof value === "number");
  if (new Set(values).size < 2) return null;
  if (LOWER.includes(metric)) return Math.min(...values);
  return HIGHER.includes(metric) ? Math.max(...values) : null;
}

function cell(metric, score, best) {
  if (score && score.value !== null) {
    const found = make("td", inWords(metric, score));
    if (score.value === best) {
      found.className = "best";
      found.append(make("span", " (best)", { class: "unseen" }));
    }
    return found;
  }
  const empty = make("td", "", { class: "none" }), why = make("details");
  why.append(make("summary", "not measured"), make("p", score?.unavailable ?? "this video does not have it"));
  empty.append(why);
  return empty;
}
