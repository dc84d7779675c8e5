// What the page asks of the server: JSON and forms out, models and events in. Knows nothing of the page.

export class ApiError extends Error {
  constructor(message, param) {
    super(message);
    this.param = param;
  }
}

export async function listModels(key) {
  const response = await fetch("/v1/models", { headers: authorization(key) });
  if (!response.ok) throw await errorOf(response);
  return (await response.json()).data;
}

// Yields the events of a stream. body: an object (sent as JSON) or a FormData.
export async function* streamEvents(path, body, key, signal) {
  const isForm = body instanceof FormData;
  const headers = authorization(key);
  if (!isForm) headers["content-type"] = "application/json";
  const response = await fetch(path, { method: "POST", headers, body: isForm ? body : JSON.stringify(body), signal });
  if (!response.ok) throw await errorOf(response);
  for await (const event of parseEvents(response.body)) {
    if (event.error) throw new ApiError(event.error.message, event.error.param);
    yield event;
  }
}

function authorization(key) {
  return key ? { authorization: `Bearer ${key}` } : {};
}

async function errorOf(response) {
  try {
    const { error } = await response.json();
    return new ApiError(error.message, error.param);
  } catch {
    return new ApiError(`The server answered ${response.status}.`, null);
  }
}

async function* parseEvents(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      pending += value;
      const blocks = pending.split("\n\n");
      pending = blocks.pop();
      for (const block of blocks) {
        const data = block.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
        if (data.length) yield JSON.parse(data.join("\n"));
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
