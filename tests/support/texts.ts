import { join } from "@std/path";

/** The contents of all files in a folder and below it that are not images. */
export async function textsIn(folder: string): Promise<string> {
  const texts: string[] = [];
  for await (const { name, isDirectory, isFile } of Deno.readDir(folder)) {
    const path = join(folder, name);
    if (isDirectory) texts.push(await textsIn(path));
    else if (isFile && !name.endsWith(".qcow2")) texts.push(await Deno.readTextFile(path));
  }
  return texts.join("\n");
}
