/**
 * A headless Chromium, spoken to by the DevTools protocol.
 *
 * @module
 */

import { tempDir } from "./temp_dir.ts";

/** Where Debian's package puts it. */
export const CHROMIUM = "/usr/bin/chromium";

/** What a page did. */
export interface Seen {
  /** The addresses that were asked for. */
  requests: string[];
  /** What stands in the console, by whatever level. */
  messages: string[];
}

export interface Chromium extends AsyncDisposable {
  seen: Seen;
  /** Loads a page, and waits until all of it is there. */
  open(url: string): Promise<void>;
  /** What an expression is, as JSON. */
  evaluate<T>(expression: string): Promise<T>;
  /** Sets the window's size. */
  resize(width: number, height: number): Promise<void>;
  /** Shows the page as it is printed. */
  emulatePrint(isOn: boolean): Promise<void>;
  /** A picture of the whole page, as PNG. */
  screenshot(): Promise<Uint8Array>;
}

/** Starts it. */
export async function startChromium(): Promise<Chromium> {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir());
  const child = new Deno.Command(CHROMIUM, {
    args: [
      ...["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"],
      ...["--disable-background-networking", "--disable-component-update", "--disable-sync"],
      ...["--remote-debugging-port=0", `--user-data-dir=${dir.path}`, "about:blank"],
    ],
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).spawn();
  stack.defer(async () => {
    child.kill("SIGKILL");
    await child.status;
  });
  const socket = new WebSocket(await addressOf(child.stderr));
  await new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = reject;
  });
  stack.defer(async () => {
    const closed = new Promise((resolve) => socket.onclose = resolve);
    socket.close();
    await closed;
  });
  const seen: Seen = { requests: [], messages: [] };
  const waiting = new Map<number, PromiseWithResolvers<Record<string, unknown>>>();
  let loaded = Promise.withResolvers<void>();
  socket.onmessage = ({ data }) => {
    const { id, result, error, method, params } = JSON.parse(String(data));
    if (id !== undefined) {
      const one = waiting.get(id);
      if (error) one?.reject(new Error(error.message));
      else one?.resolve(result);
    } else if (method === "Page.loadEventFired") loaded.resolve();
    else if (method === "Network.requestWillBeSent") seen.requests.push(params.request.url);
    else if (method === "Log.entryAdded") seen.messages.push(params.entry.text);
    else if (method === "Runtime.consoleAPICalled" || method === "Runtime.exceptionThrown") {
      seen.messages.push(JSON.stringify(params));
    }
  };
  let ids = 0;
  const send = (method: string, params = {}, sessionId?: string) => {
    const answer = Promise.withResolvers<Record<string, unknown>>();
    waiting.set(++ids, answer);
    socket.send(JSON.stringify({ id: ids, method, params, sessionId }));
    return answer.promise;
  };
  const { targetId } = await send("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
  const ask = (method: string, params = {}) => send(method, params, String(sessionId));
  for (const domain of ["Page", "Network", "Log", "Runtime"]) await ask(`${domain}.enable`);
  const owned = stack.move();
  return {
    seen,
    async open(url) {
      loaded = Promise.withResolvers();
      await ask("Page.navigate", { url });
      await loaded.promise;
    },
    async evaluate(expression) {
      const { result } = await ask("Runtime.evaluate", { expression, returnByValue: true });
      // deno-lint-ignore no-explicit-any
      return (result as any).value;
    },
    async resize(width, height) {
      const metrics = { width, height, deviceScaleFactor: 1, mobile: width < 600 };
      await ask("Emulation.setDeviceMetricsOverride", metrics);
    },
    async emulatePrint(isOn) {
      await ask("Emulation.setEmulatedMedia", { media: isOn ? "print" : "" });
    },
    async screenshot() {
      const { data } = await ask("Page.captureScreenshot", { captureBeyondViewport: true });
      return Uint8Array.from(atob(String(data)), (letter) => letter.charCodeAt(0));
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** It says where it listens. */
async function addressOf(stderr: ReadableStream<Uint8Array>): Promise<string> {
  let text = "";
  for await (
    const piece of stderr.pipeThrough(new TextDecoderStream()).values({ preventCancel: false })
  ) {
    text += piece;
    const [, address] = /DevTools listening on (ws:\S+)/.exec(text) ?? [];
    if (address) return address;
  }
  throw new Error(`Chromium did not start:\n${text}`);
}
