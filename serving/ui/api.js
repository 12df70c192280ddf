// The service's HTTP interface as this page uses it. Every failure becomes an Error whose message is a sentence.

const KEY = "musubi-ext-key";
let key = sessionStorage.getItem(KEY) ?? "";

export function setKey(value) {
  key = value.trim();
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}
export const getKey = () => key;

export class Refused extends Error {
  constructor(message, status, param) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

async function call(path, options = {}) {
  const headers = { ...(options.headers ?? {}) };
  if (key) headers.Authorization = `Bearer ${key}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The service does not answer. Is it still running?", 0, null);
  }
  if (answer.ok) return answer;
  let detail = {};
  try {
    detail = (await answer.json()).error ?? {};
  } catch { /* a proxy's page, say: the status has to do */ }
  const words = {
    401: "This service asks for an API key: open “API key” and enter yours.",
    413: "That is too large for this service.",
    429: "Too many requests: wait a moment, then try again.",
    503: "The queue is full or the service is not ready: try again in a moment.",
  };
  const message = detail.message ?? words[answer.status] ?? `The service answered ${answer.status}.`;
  throw new Refused(answer.status === 401 ? words[401] : message, answer.status, detail.param ?? null);
}

const json = async (path, options) => (await call(path, options)).json();
const video = (id) => `v1/videos/${encodeURIComponent(id)}`;

export const models = async () => (await json("v1/models")).data;
export const recent = async () => (await json("v1/videos?limit=12&order=desc")).data;
export const read = (id) => json(video(id));
export const create = (form) => json("v1/videos", { method: "POST", body: form });
export const cancel = (id) => json(`${video(id)}/cancel`, { method: "POST" });
export const remove = (id) => json(video(id), { method: "DELETE" });

// An object URL, since <video> and <img> cannot send a key.
export async function content(id, variant) {
  const answer = await call(`${video(id)}/content?variant=${variant}`);
  return URL.createObjectURL(await answer.blob());
}

// Calls `seen` with every state of the job until it has ended; picks up again when the connection breaks.
export async function watch(id, seen) {
  for (let wait = 500; ; wait = Math.min(wait * 2, 10_000)) {
    try {
      const answer = await call(`${video(id)}/events`);
      for await (const job of events(answer.body)) {
        wait = 500;
        seen(job);
        if (job.status === "completed" || job.status === "failed") return;
      }
    } catch (error) {
      if (error instanceof Refused && [401, 403, 404].includes(error.status)) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
      if (data) yield JSON.parse(data);
    }
  }
}
