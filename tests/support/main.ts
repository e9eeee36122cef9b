/**
 * What all programs of the tests do that a person starts.
 *
 * @module
 */

/** Does the work, takes away what it has made also after a signal, and ends with 1 and a sentence if it fails. */
export async function runMain(work: (made: AsyncDisposableStack) => Promise<void>): Promise<never> {
  const made = new AsyncDisposableStack();
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    Deno.addSignalListener(signal, () => void made.disposeAsync().finally(() => Deno.exit(1)));
  }
  let exitCode = 0;
  try {
    await work(made);
  } catch (error) {
    console.error(`Error: ${error instanceof Error ? error.message : error}`);
    exitCode = 1;
  } finally {
    await made.disposeAsync();
  }
  Deno.exit(exitCode);
}
