/**
 * A worker that ends the process when a test hangs: a loop without end lets no timer of its own thread
 * fire.
 *
 * @module
 */

/** A test begins; null where it has ended. */
export type Watched = { name: string; limitMs: number } | null;

let timer: ReturnType<typeof setTimeout> | undefined;

addEventListener("message", (event) => {
  clearTimeout(timer);
  const watched: Watched = event instanceof MessageEvent ? event.data : null;
  if (watched === null) return;
  const { name, limitMs } = watched;
  timer = setTimeout(() => {
    const text = `\nNot done within ${limitMs / 1000} s: ${name}\n`;
    Deno.stderr.writeSync(new TextEncoder().encode(text));
    Deno.kill(Deno.pid, "SIGKILL");
  }, limitMs);
});
