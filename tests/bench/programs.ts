/**
 * The plain programs that a backup is measured against, and what the sides are made of.
 *
 * @module
 */

/**
 * Runs a program.
 *
 * @throws {Error} With what it said, unless it ends with 0.
 */
export async function program(name: string, ...args: string[]): Promise<string> {
  const output = await new Deno.Command(name, { args, stdin: "null" }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  if (output.success) return text(output.stdout);
  throw new Error(`${name} ${args.join(" ")} ended with ${output.code}: ${text(output.stderr)}`);
}

/** Has a file, or all files of a folder, on the storage. */
export async function flush(...paths: string[]): Promise<void> {
  await program("sync", ...paths);
}

/** Removes a file or a folder, and waits until its blocks are free. */
export async function removeAll(path: string): Promise<void> {
  await Deno.remove(path, { recursive: true }).catch((error) => {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  });
  await program("sync", "-f", dirnameOf(path));
}

function dirnameOf(path: string): string {
  return path.slice(0, path.lastIndexOf("/"));
}

/** A raw file with so many MiB of random bytes at an offset, and holes before and after. */
export async function randomRaw(
  path: string,
  { sizeMiB, dataMiB, atMiB = 0 }: { sizeMiB: number; dataMiB: number; atMiB?: number },
): Promise<void> {
  await program("truncate", "-s", `${sizeMiB}M`, path);
  await program(
    "dd",
    ...["if=/dev/urandom", `of=${path}`, "bs=1M", "iflag=fullblock", "conv=notrunc"],
    ...[`count=${dataMiB}`, `seek=${atMiB}`],
  );
}
