/**
 * What the tool asks of the kernel, and when: the order of flushes, renames and messages can't be seen
 * in what is left afterwards.
 *
 * Source: strace(1); `-y` prints the path behind each file descriptor.
 *
 * @module
 */

import { ensurePrograms } from "./install_qemu.ts";
import { tempDir } from "./temp_dir.ts";
import { ended, startTool, type ToolResult } from "./tool.ts";

/** A system call that succeeded. */
export interface Call {
  /** `rename` for all of its kind, and so on. */
  name: string;
  /** The rest of the line, as strace prints it, without the quotes' backslashes. */
  text: string;
  /** When it began and ended: lines of the trace. */
  begin: number;
  end: number;
}

/** The variants of a call, by what they are called here. */
const NAMES: Record<string, string> = {
  ...{ fsync: "fsync", fdatasync: "fsync" },
  ...{ rename: "rename", renameat: "rename", renameat2: "rename" },
  ...{ link: "link", linkat: "link", unlink: "unlink", unlinkat: "unlink" },
  ...{ mkdir: "mkdir", mkdirat: "mkdir", openat: "open" },
  ...{ write: "write", pwrite64: "write", writev: "write" },
  ...{ sendto: "send", sendmsg: "send" },
};

/** Runs the tool in a process of its own, and returns its calls and those of its children. */
export async function trace(args: string[]): Promise<ToolResult & { calls: Call[] }> {
  await ensurePrograms({ strace: "strace" });
  await using dir = await tempDir();
  const file = dir.join("trace");
  const calls = Object.keys(NAMES).map((name) => `?${name}`).join(",");
  const strace = ["strace", "-f", "-y", "-qq", "-s", "4096", "-e", `trace=${calls}`, "-o", file];
  const result = await ended(startTool(args, { under: strace }));
  return { ...result, calls: parseTrace(await Deno.readTextFile(file)) };
}

/** Joins what strace had to print in two lines, since another thread came between. */
export function parseTrace(text: string): Call[] {
  const calls: Call[] = [];
  const open = new Map<string, { name: string; text: string; begin: number }>();
  for (const [line, words] of text.split("\n").entries()) {
    const [, pid = "", rest = ""] = /^(\d+)\s+(.*)$/.exec(words) ?? [];
    const resumed = /^<\.\.\. \w+ resumed>(.*)$/.exec(rest);
    const started = /^(\w+)\((.*)$/.exec(rest);
    const call = resumed ? open.get(pid) : started && {
      name: NAMES[started[1] as string] ?? "",
      text: "",
      begin: line,
    };
    if (!call) continue;
    const more = (resumed?.[1] ?? started?.[2] ?? "").replaceAll('\\"', '"');
    if (more.endsWith("<unfinished ...>")) {
      open.set(pid, { ...call, text: more.replace("<unfinished ...>", "") });
      continue;
    }
    open.delete(pid);
    const whole = call.text + more;
    // Deno 2.4 writes to a socket as to a file.
    const name = call.name === "write" && /^\d+<(socket|UNIX)/.test(whole) ? "send" : call.name;
    if (/= \d+(<.*>)?$/.test(whole)) calls.push({ ...call, name, text: whole, end: line });
  }
  return calls;
}

/** What to look for: a call's name and what stands in its line. */
export type Step = readonly [name: string, ...texts: string[]];

/** The first call of this kind that begins after a line of the trace. */
export function findCall(calls: Call[], [name, ...texts]: Step, after = -1): Call | undefined {
  return calls.find((call) =>
    call.begin > after && call.name === name && texts.every((text) => call.text.includes(text))
  );
}

/**
 * Asserts that these calls come one after the other, each ended before the next begins.
 *
 * @returns The last one.
 */
export function assertOrder(calls: Call[], steps: readonly Step[], after = -1): Call {
  let last: Call | undefined;
  for (const step of steps) {
    const call = findCall(calls, step, last?.end ?? after);
    if (!call) {
      throw new Error(`No ${step.join(" ")} after ${last?.name ?? "line"} ${last?.text ?? after}`);
    }
    last = call;
  }
  return last as Call;
}
