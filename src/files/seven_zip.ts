/**
 * Reads FAT, NTFS and others, by `7z`.
 *
 * @module
 */

import { dirname } from "@std/path";
import { brief, Failure } from "../errors.ts";
import type { Entry, Reader, Run } from "./reader.ts";

const PROGRAM = "7z";
const INSTALL = "Debian: p7zip-full, or 7zip";

/**
 * Opens a file that holds such a file system. All its names are read at once.
 *
 * @param run Runs a program on it.
 */
export async function openBySevenZip(path: string, run: Run): Promise<Reader> {
  const options = { install: INSTALL };
  const { code, stdout, stderr } = await run(PROGRAM, ["l", "-slt", "-ba", path], options);
  if (code !== 0) throw new Failure(`7z can't read it: ${brief((stderr + stdout).trim())}`);
  const all = parseListing(stdout);
  return {
    list(folder) {
      const isFolder = ({ id, kind }: Entry) => kind === "folder" && `/${id}` === folder;
      if (folder !== "/" && !all.some(isFolder)) {
        return Promise.reject(new Failure(`"${folder}" is not a folder of this file system`));
      }
      return Promise.resolve(all.filter(({ id }) => dirname(`/${id}`) === folder));
    },
    async read({ id }, onStdout) {
      // Without patterns: a name with a star in it is that file alone.
      const args = ["x", "-so", "-spd", `-i!${id}`, path];
      const { code, stderr } = await run(PROGRAM, args, { ...options, onStdout });
      if (code !== 0) throw new Failure(`7z can't read "${id}": ${brief(stderr.trim())}`);
    },
  };
}

/** Decodes what `7z l -slt -ba` prints. Pure. */
export function parseListing(text: string): Entry[] {
  return text.split(/\n\n+/).flatMap((block) => {
    const field = (name: string) => new RegExp(`^${name} = (.*)$`, "m").exec(block)?.[1];
    const id = field("Path");
    if (id === undefined || id === "") return [];
    const isFolder = field("Folder") === "+" || (field("Attributes") ?? "").startsWith("D");
    const isLink = (field("Symbolic Link") ?? "") !== "";
    return [{
      name: id.slice(id.lastIndexOf("/") + 1),
      kind: isFolder ? "folder" as const : isLink ? "link" as const : "file" as const,
      sizeBytes: Number(field("Size") || 0),
      id,
    }];
  });
}
