import { getLogger } from "@logtape/logtape";
import { resolve } from "@std/path";
import { attach } from "../../attach/attach.ts";
import { type Attached, detach, listAttached } from "../../attach/detach.ts";
import { nbdInstructions, overlayInstructions } from "../../attach/instructions.ts";
import { messageOf, UsageError, WARNED } from "../../errors.ts";
import { choosePoints } from "../../restore/choose_points.ts";
import { fileMode } from "../args/file_mode.ts";
import { FLAGS } from "../args/flags.ts";
import type { Values } from "../args/parse.ts";
import { attachedJson, attachedListText, attachedText } from "../output/attached.ts";
import { jsonLine } from "../output/report.ts";
import type { CommandContext } from "./context.ts";
import { keyFileOf } from "./key_file.ts";

const log = getLogger(["qmpbackup", "attach"]);

/** Where an NBD server's sockets go: what is there is gone after a restart, as the server is. */
const SOCKET_FOLDER = "/run/qmpbackup";

/** `qmpbackup restore attach`. */
export async function restoreAttach(context: CommandContext): Promise<number> {
  const { values: { list, detach } } = context;
  refuseMixed(context.values);
  if (list !== undefined) return await showAttached(context);
  return await (detach === undefined ? attachPoints(context) : detachNamed(context, detach));
}

function refuseMixed({ list, detach, nbd, "target-dir": targetDir, until, filter }: Values) {
  if (list !== undefined && list !== FLAGS.list.implied) {
    throw new UsageError('"restore attach" takes --list without a value');
  }
  const isAttaching = [nbd, targetDir, until, filter].some((value) => value !== undefined);
  const ways = [list !== undefined, detach !== undefined, isAttaching].filter(Boolean).length;
  if (ways > 1) {
    throw new UsageError(
      '"restore attach" does one thing at a time: attach (--target-dir or --nbd), --list, or --detach',
    );
  }
  if (ways === 1 && !isAttaching) return;
  if (nbd === undefined && targetDir === undefined) {
    throw new UsageError(
      '"restore attach" needs --target-dir for overlays that a VM can be started on, or --nbd to read only',
    );
  }
}

async function attachPoints({ values, io, deadline, signal }: CommandContext): Promise<number> {
  const { nbd = false, "target-dir": targetDir, until = null, filter, json } = values;
  const dir = resolve(values.dir ?? ".");
  const choice = { until, allowMissing: values["allow-missing"] ?? false };
  const { points, warnings } = await choosePoints(deadline, dir, choice, filter);
  for (const warning of warnings) log.warn("{warning}", { warning });
  const keyFile = await keyFileOf(deadline, values);
  const attachment = await attach(points, {
    kind: nbd ? "nbd" : "overlay",
    folder: resolve(targetDir ?? SOCKET_FOLDER),
    mode: fileMode(values.mode),
    host: Deno.hostname(),
    keyFile,
    deadline,
    signal,
  });
  const key = points.some((point) => point.layers().some(({ isEncrypted }) => isEncrypted))
    ? keyFile
    : null;
  const opened = attachment.disks.map(({ open }) => open);
  const commands = nbd ? nbdInstructions(opened) : overlayInstructions(opened, key);
  io.stdout(
    json
      ? jsonLine("summary", { state: "attached", ...attachedJson(attachment), commands, warnings })
      : attachedText(attachment, dir, commands),
  );
  return values.strict && warnings.length > 0 ? WARNED : 0;
}

async function showAttached({ values, io, deadline }: CommandContext): Promise<number> {
  const all = await listAttached(deadline, resolve(values.dir ?? "."), Deno.hostname());
  if (!values.json) {
    io.stdout(attachedListText(all));
    return 0;
  }
  for (const { attachment, state } of all) {
    io.stdout(jsonLine("attached", { ...attachedJson(attachment), state }));
  }
  io.stdout(jsonLine("summary", { attached: all.length }));
  return 0;
}

async function detachNamed(
  { values, io, deadline }: CommandContext,
  name: string,
): Promise<number> {
  const all = await listAttached(deadline, resolve(values.dir ?? "."), Deno.hostname());
  const wanted = name === "all" ? all : all.filter(({ attachment }) => attachment.name === name);
  if (wanted.length === 0 && name !== "all") throw unknown(name, all);
  const done: Attached[] = [];
  for (const attached of wanted) {
    try {
      await detach(deadline, attached);
      done.push(attached);
    } catch (error) {
      if (wanted.length === 1) throw error;
      log.error("{words}", { words: messageOf(error) });
    }
  }
  const names = done.map(({ attachment }) => attachment.name);
  if (values.json) io.stdout(jsonLine("summary", { state: "detached", names }));
  else io.stdout(names.length === 0 ? "Nothing was detached\n" : `Detached: ${names.join(", ")}\n`);
  return done.length === wanted.length ? 0 : 1;
}

function unknown(name: string, all: readonly Attached[]): UsageError {
  const names = all.map(({ attachment }) => attachment.name).join(", ");
  return new UsageError(
    `"${name}" is not attached here: ${
      names === "" ? "nothing is" : `--detach takes all, or one of ${names}`
    }`,
  );
}
