import { join } from "@std/path";

/** A directory of its own for one test. */
export interface TempDir extends AsyncDisposable {
  /** Absolute, and short: a Unix socket's path may have no more than 107 bytes. */
  readonly path: string;
  /** A path inside. */
  join(...parts: string[]): string;
}

/**
 * Makes a directory that is removed, with all in it, when the test leaves its scope.
 *
 * @example
 * ```ts
 * await using dir = await tempDir();
 * await Deno.writeTextFile(dir.join("a.txt"), "a");
 * ```
 */
export async function tempDir(): Promise<TempDir> {
  const path = await Deno.makeTempDir({ prefix: "qmpb-" });
  return {
    path,
    join: (...parts) => join(path, ...parts),
    [Symbol.asyncDispose]: () => Deno.remove(path, { recursive: true }),
  };
}
