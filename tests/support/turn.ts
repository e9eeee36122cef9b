import { dirname } from "@std/path";

/**
 * Waits until no other test file has this turn, and takes it until disposed: test files are processes of their own,
 * and what all of them use is made by one.
 *
 * @param path Of a file for this, which stays.
 */
export async function takeTurn(path: string): Promise<Disposable> {
  await Deno.mkdir(dirname(path), { recursive: true });
  const file = await Deno.open(path, { create: true, write: true });
  await file.lock(true);
  return file;
}
