/**
 * Reads ext2, ext3 and ext4, by `debugfs` of e2fsprogs.
 *
 * Source: the manual page debugfs(8). It ends with 0 whatever happened: what went wrong stands on stderr.
 *
 * @module
 */

import { brief, Failure } from "../errors.ts";
import { MissingProgramError, type RunProgramOptions } from "../process/run.ts";
import type { Entry, Reader, Run } from "./reader.ts";

const INSTALL = "Debian: e2fsprogs";
/** Where it is if PATH is that of an ordinary user. */
const PROGRAMS = ["debugfs", "/usr/sbin/debugfs"] as const;

/**
 * Opens an ext.
 *
 * @param path A file that holds it.
 * @param run Runs a program on it.
 * @param replay Whether its journal is to be replayed first, which writes to the file.
 */
export async function openExt(
  path: string,
  run: Run,
  replay: boolean,
): Promise<Reader> {
  if (replay) await ask(run, ["-w", "-R", "journal_run", path]);
  return {
    list: async (folder) => parseListing(await ask(run, ["-R", `ls -p ${quoted(folder)}`, path])),
    read: async ({ id }, onStdout) =>
      void await ask(run, ["-R", `cat <${id}>`, path], { onStdout }),
  };
}

async function ask(
  run: Run,
  args: string[],
  options: Pick<RunProgramOptions, "onStdout"> = {},
): Promise<string> {
  for (const program of PROGRAMS) {
    try {
      const { stdout, stderr } = await run(program, args, { install: INSTALL, ...options });
      const complaint = complaintOf(stderr);
      if (complaint === "") return stdout;
      throw new Failure(`debugfs failed: ${brief(complaint)}`);
    } catch (error) {
      if (!(error instanceof MissingProgramError) || program === PROGRAMS.at(-1)) throw error;
    }
  }
  throw new Error("not reached");
}

/** What is said besides the version. Pure. */
export function complaintOf(stderr: string): string {
  return stderr.split("\n").filter((line) => !/^debugfs \d/.test(line)).join("\n").trim();
}

/** A word as the language of its requests wants it. Pure. */
export function quoted(path: string): string {
  if (/[\n\r\0]/.test(path)) {
    throw new Failure("A name with a line end can't be asked for: copy the folder that it is in");
  }
  return `"${path.replaceAll('"', '""')}"`;
}

/** The bits of a mode that tell a file's kind. */
const KINDS = new Map<number, Entry["kind"]>([[0o04, "folder"], [0o10, "file"], [0o12, "link"]]);

/** Decodes what `ls -p` prints: `/inode/mode/uid/gid/name/size/`, where a name may hold line ends. Pure. */
export function parseListing(text: string): Entry[] {
  const lines = text.matchAll(/^\/(\d+)\/([0-7]{6})\/-?\d+\/-?\d+\/([^/]*)\/(\d*)\/$/gm);
  return [...lines].map(([, id = "", mode = "", name = "", size]): Entry => ({
    name,
    kind: KINDS.get(parseInt(mode, 8) >> 12) ?? "other",
    sizeBytes: Number(size ?? 0),
    id,
  })).filter(({ name, id }) => name !== "." && name !== ".." && id !== "0");
}
