/* Calls of the API. The token is in this module's memory and in the header of requests, nowhere else. */

const REPLY_MILLISECONDS = 45_000;
const SILENCE_MILLISECONDS = 15_000;

/** What the service refused: the members of application/problem+json (RFC 9457). */
export class ProblemError extends Error {
  constructor(status, problem, headers) {
    super(problem.detail ?? problem.title ?? `The service answered with status ${status}.`);
    this.status = status;
    this.title = problem.title ?? `The service answered with status ${status}`;
    this.detail = problem.detail;
    this.code = problem.code ?? String(status);
    this.correlationId = problem.correlationId ?? headers.get("X-Correlation-ID");
    this.retryAfter = Number(headers.get("Retry-After")) || 0;
  }
}

/** No answer: the network, the proxy in between, or the service is down. */
export class NetworkError extends Error {
  constructor(late, correlationId = null) {
    super(late ? "There was no answer in time." : "The connection failed.");
    this.title = "The service cannot be reached";
    this.correlationId = correlationId;
    this.detail = `${this.message} What was sent may have been done all the same. Check the connection, then try again.`;
  }
}

export class Api {
  #token = "";

  /** ``refused`` is called with the problem whenever a token is not accepted. */
  constructor(refused = () => {}) {
    this.refused = refused;
  }

  set token(token) {
    this.#token = token;
  }

  get signedIn() {
    return this.#token !== "";
  }

  /** Return the address of a resource of a campaign, each part encoded; relative, so that a prefix stays. */
  static path(campaign, ...parts) {
    return ["v1", campaign, ...parts].map(encodeURIComponent).join("/");
  }

  /** Make a call and return ``{status, headers, data}``; data is JSON, or a Blob of anything else. */
  async call(method, path, { query, body, headers = {}, limit = REPLY_MILLISECONDS } = {}) {
    const response = await this.#send(method, path, { query, body, headers, signal: AbortSignal.timeout(limit) });
    try {
      const json = (response.headers.get("Content-Type") ?? "").includes("json");
      const data = json ? await response.json() : await response.blob();
      return { status: response.status, headers: response.headers, data };
    } catch (error) {
      throw asNetworkError(error);
    }
  }

  /**
   * Return the whole body of a reply as a Blob, to be saved: by fetch(), since a link cannot carry the token.
   *
   * It may take as long as it likes, as long as something comes. A body that breaks off is an error, never half a file.
   */
  async file(path) {
    const silence = new Silence(REPLY_MILLISECONDS);
    let response;
    try {
      response = await this.#send("GET", path, { signal: silence.signal });
      const parts = [];
      for await (const part of pieces(response.body)) {
        silence.broken();
        parts.push(part);
      }
      return new Blob(parts, { type: response.headers.get("Content-Type") ?? "" });
    } catch (error) {
      throw asNetworkError(error, response?.headers.get("X-Correlation-ID"));
    } finally {
      silence.end();
    }
  }

  /**
   * Yield the JSON of each server-sent event until the service ends the stream.
   *
   * By fetch(), since an EventSource cannot carry the token. A stream that says nothing for long is taken for dead.
   */
  async *events(path, signal) {
    const silence = new Silence(SILENCE_MILLISECONDS);
    const either = AbortSignal.any([signal, silence.signal]);
    try {
      const response = await this.#send("GET", path, { headers: { Accept: "text/event-stream" }, signal: either });
      let rest = "";
      for await (const text of pieces(response.body.pipeThrough(new TextDecoderStream()))) {
        silence.broken();
        const blocks = (rest + text).replaceAll("\r\n", "\n").split("\n\n");
        rest = blocks.pop();
        for (const block of blocks) {
          const data = block.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5));
          if (data.length) yield JSON.parse(data.join("\n"));
        }
      }
    } catch (error) {
      if (!signal.aborted) throw asNetworkError(error);
    } finally {
      silence.end();
    }
  }

  async #send(method, path, { query = {}, body, headers = {}, signal }) {
    const sent = { ...headers };
    if (this.#token) sent.Authorization = `Bearer ${this.#token}`;
    if (body !== undefined) sent["Content-Type"] = "application/json";
    const address = Object.keys(query).length ? `${path}?${new URLSearchParams(query)}` : path;
    const options = { method, headers: sent, body: JSON.stringify(body), cache: "no-store", redirect: "error", signal };
    let response;
    try {
      response = await fetch(address, options);
    } catch (error) {
      throw asNetworkError(error);
    }
    if (response.ok) return response;
    const problem = new ProblemError(response.status, await response.json().catch(() => ({})), response.headers);
    if (response.status === 401) this.refused(problem);
    throw problem;
  }
}

/** Aborts what goes on too long without a word. */
class Silence {
  #limit;
  #watch = new AbortController();
  #timer;

  constructor(milliseconds) {
    this.#limit = milliseconds;
    this.broken();
  }

  get signal() {
    return this.#watch.signal;
  }

  broken() {
    clearTimeout(this.#timer);
    const late = new DOMException("Nothing has come for long.", "TimeoutError");
    this.#timer = setTimeout(() => this.#watch.abort(late), this.#limit);
  }

  end() {
    clearTimeout(this.#timer);
    this.#watch.abort();
  }
}

/** Yield what a stream holds as it comes. */
async function* pieces(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function asNetworkError(error, correlationId) {
  if (error instanceof ProblemError || error instanceof NetworkError) return error;
  return new NetworkError(error.name === "TimeoutError", correlationId);
}
