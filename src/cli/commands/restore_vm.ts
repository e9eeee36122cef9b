import { getLogger } from "@logtape/logtape";
import { basename, join, resolve } from "@std/path";
import { attach } from "../../attach/attach.ts";
import { UsageError, WARNED } from "../../errors.ts";
import type { Deadline } from "../../fs/deadline.ts";
import { createFile, makeFolder } from "../../fs/create.ts";
import { exists, syncPath } from "../../fs/durable.ts";
import { domainXml, isDomainXml } from "../../machine/domain_xml.ts";
import { newCommand } from "../../machine/new_command.ts";
import { type RestoredDisk, startCommand } from "../../machine/start_command.ts";
import { neededPaths, startScript } from "../../machine/start_script.ts";
import type { DiskRecord, RunRecord } from "../../repo/record.ts";
import { readTarget } from "../../repo/repository.ts";
import { readSavedFiles } from "../../repo/saved.ts";
import { tpmStateIn } from "../../repo/tpm_state.ts";
import { pointsOfChosenRun } from "../../restore/choose_points.ts";
import { merge } from "../../restore/merge.ts";
import type { RestorePoint } from "../../restore/points.ts";
import { placeDisks, type VmDisk } from "../../restore/vm_disks.ts";
import { shellText } from "../../shell.ts";
import { localTime } from "../../time.ts";
import { fileMode } from "../args/file_mode.ts";
import { jsonLine, restoreText } from "../output/report.ts";
import { printable } from "../output/text.ts";
import { FIRST_BACKUP } from "./restore.ts";
import type { CommandContext } from "./context.ts";
import { keyFileOf } from "./key_file.ts";

const log = getLogger(["qmpbackup", "restore"]);

const START_SCRIPT = "start.sh";
/** Where a TPM's state goes. */
const TPM_FOLDER = "swtpm";

/** The overlay that `attach()` makes for a point. */
const overlayName = ({ disk }: RestorePoint) => `${disk}.qcow2`;

const finishCommand = (dir: string) =>
  `${shellText(["qmpbackup", "restore", "finish", "--dir", dir])} --socket QMP-SOCKET`;

/** What a saved file is called, as it is. */
const savedName = (name: string) => `saved-${name}`;

/** A file to be written beside the disks. */
interface Extra {
  name: string;
  contents: Uint8Array | string;
  mode: number;
}

/** `qmpbackup restore vm`. */
export async function restoreVm(
  { values, deadline, io, progress, signal }: CommandContext,
): Promise<number> {
  const folder = resolve(values["target-dir"] ?? ".");
  const mode = fileMode(values.mode);
  const dir = resolve(values.dir ?? ".");
  const { points, warnings } = await pointsOfChosenRun(deadline, dir, {
    until: values.until ?? null,
    allowMissing: values["allow-missing"] ?? false,
  });
  const { target, run } = await runOf(deadline, points);
  const saved = await readSavedFiles(deadline, target, run);
  const rows = rowsOf(run, points);
  const isInstant = (row: DiskRecord) => values.instant === true && row.format === "qcow2";
  const taken = saved.flatMap(({ name }) => [name, savedName(name)]);
  const overlays = points.filter((_, i) => isInstant(rows[i] as DiskRecord));
  for (const layer of overlays.flatMap((point) => point.layers())) {
    if (!layer.isEncrypted) continue;
    throw new UsageError(`"${layer.path}" is encrypted: restore it without --instant`);
  }
  const names = [START_SCRIPT, TPM_FOLDER, ...taken, ...overlays.map(overlayName)];
  const disks = placeDisks(rows, names).map((disk, i) =>
    isInstant(disk.row) ? { ...disk, name: overlayName(points[i] as RestorePoint) } : disk
  );
  const { extras, notes, start, hasTpm } = await plan(deadline, run, disks, saved, {
    folder,
    mode,
  });
  for (const { name } of extras) await refuseExisting(deadline, join(folder, name));
  if (hasTpm) await refuseExisting(deadline, join(folder, TPM_FOLDER));
  for (const warning of warnings) log.warn("{warning}", { warning });
  const jobs = points.flatMap((point, i) => {
    const { row, name, format } = disks[i] as VmDisk;
    return isInstant(row) ? [] : [{ point, targetFile: join(folder, name), format }];
  });
  const restored = await merge(jobs, {
    deadline,
    format: "qcow2",
    mode,
    skipCheck: values["skip-check"] ?? false,
    rateLimitBytesPerSecond: values["rate-limit"] ?? 0,
    keyFile: await keyFileOf(deadline, values),
    signal,
    onProgress: (disk, doneBytes, totalBytes) => progress.update(disk, doneBytes, totalBytes),
  });
  if (overlays.length > 0) {
    const host = Deno.hostname();
    await attach(overlays, {
      ...{ kind: "overlay" as const, folder, mode, keepsFiles: true, host, deadline, signal },
      keyFile: null,
    });
    notes.push(
      "The disks still need the backups: leave them where they are until all data is moved in. " +
        `Start the VM, then run: ${finishCommand(dir)}`,
    );
  }
  if (hasTpm) await makeFolder(deadline, join(folder, TPM_FOLDER), mode);
  for (const { name, contents, mode } of extras) {
    await createFile(deadline, join(folder, name), mode, contents);
    await syncPath(deadline, join(folder, name));
  }
  await syncPath(deadline, folder);
  progress.end();
  const files = extras.map(({ name }) => join(folder, name));
  const summary = { state: "done", run: run.id, disks: restored, files, notes, start, warnings };
  io.stdout(
    values.json
      ? jsonLine("summary", summary)
      : restoreText(restored, io.width()) + vmText({ files, notes, start }),
  );
  return values.strict && warnings.length > 0 ? WARNED : 0;
}

/** What was made besides the disks, what to know, and the one command that starts the VM. */
function vmText(
  { files, notes, start }: { files: string[]; notes: string[]; start: string | null },
) {
  return [
    ...files.map((file) => `Written: ${file}`),
    ...notes.map((note) => `Note: ${note}`),
    start === null ? "It is not known how the VM was started" : `Start it with: ${start}`,
  ].map((line) => printable(line) + "\n").join("");
}

async function runOf(
  deadline: Deadline,
  points: RestorePoint[],
): Promise<{ target: string; run: RunRecord }> {
  const { target = null, runId } = points[0] ?? { runId: null };
  const run = target === null
    ? undefined
    : (await readTarget(deadline, target)).runs.find(({ id }) => id === runId);
  if (!run || target === null) throw new UsageError("There is no restore point");
  return { target, run };
}

function rowsOf(run: RunRecord, points: RestorePoint[]) {
  return points.flatMap((point) =>
    run.disks.find(({ folder, file }) => join(folder, point.name) === join(file)) ?? []
  );
}

async function refuseExisting(deadline: Deadline, path: string) {
  if (!await exists(deadline, path)) return;
  throw new UsageError(`"${path}" exists already, and is not overwritten: name an empty folder`);
}

/** What is to be written besides the disks. Nothing is written yet. */
async function plan(
  deadline: Deadline,
  run: RunRecord,
  disks: VmDisk[],
  saved: { name: string; contents: Uint8Array }[],
  { folder, mode }: { folder: string; mode: number },
): Promise<{ extras: Extra[]; notes: string[]; start: string | null; hasTpm: boolean }> {
  const restored = disks.map(({ row, name, format }): RestoredDisk => ({
    name: row.name,
    source: row.source,
    file: join(folder, name),
    format,
    node: row.node,
  }));
  const notes = [
    ...disks.flatMap(({ note }) => note ?? []),
    ...run.leftOut.filter(({ gone }) => !gone).map(({ device, reason }) =>
      `"${device}" is not in the backup: ${reason}`
    ),
  ];
  const extras: Extra[] = saved.map(({ name, contents }) => ({
    name: savedName(name),
    contents,
    mode,
  }));
  const starts: string[] = [];
  const state = run.machine?.tpms.length ? tpmStateIn(saved) : null;
  const tpm = state && {
    path: join(folder, TPM_FOLDER),
    socket: join(TPM_FOLDER, "socket"),
    version: state.version,
  };
  if (state) {
    const { name, contents } = state;
    extras.push({ name: join(TPM_FOLDER, name), contents, mode });
  }
  const files = new Map(restored.map(({ source, file }) => [source, file]));
  for (const { name, contents } of saved) {
    const text = new TextDecoder().decode(contents);
    if (!isDomainXml(text)) continue;
    const { xml, missing } = domainXml(text, files);
    extras.push({ name, contents: xml, mode });
    starts.push(`virsh create ${shellText([join(folder, name)])}`);
    notes.push(
      "libvirt starts QEMU as a user of its own, who must be allowed to enter the folder " +
        `(${shellText(["chmod", "711", folder])}): it gives the disks to that user itself`,
      ...(state ? [libvirtTpmNote(run, join(folder, TPM_FOLDER, state.name))] : []),
      ...missing.map((path) =>
        `"${name}" does not contain the old path "${path}": write the new path of that file into it`
      ),
    );
  }
  if (run.machine) {
    const { commandLine } = run.machine;
    const command = commandLine === null
      ? newCommand(run.vm, restored, run.machine, tpm)
      : startCommand(commandLine, restored, run.machine, tpm);
    notes.push(
      ...command.notes,
      ...await missingHere(deadline, command.argv, restored.map(({ file }) => file)),
    );
    const when = localTime(new Date(run.pointInTime ?? run.started));
    const about = `Starts the VM ${
      JSON.stringify(run.vm.name)
    } of ${when}, restored from ${run.id}`;
    extras.push({
      name: START_SCRIPT,
      contents: startScript(about, folder, command.argv, notes, command.swtpm),
      // Who may read it may run it.
      mode: mode | 0o100,
    });
    starts.push(`sh ${shellText([join(folder, START_SCRIPT)])}`);
  }
  notes.push(FIRST_BACKUP);
  // What libvirt started needs libvirt.
  return { extras, notes, start: starts[0] ?? null, hasTpm: state !== null };
}

/** libvirt starts swtpm itself, with a folder of its own. */
function libvirtTpmNote({ vm }: RunRecord, file: string): string {
  const version = basename(file).startsWith("tpm2") ? "tpm2" : "tpm1.2";
  return `libvirt looks for the TPM's state in "/var/lib/libvirt/swtpm/${vm.uuid}/${version}": copy ` +
    `"${file}" into it first, for the user that swtpm runs as`;
}

async function missingHere(deadline: Deadline, argv: string[], made: string[]): Promise<string[]> {
  const { files, folders } = neededPaths(argv, made);
  const notes: string[] = [];
  for (const path of files) {
    if (!await isThere(deadline, path)) {
      notes.push(`The file "${path}" is not here: install or copy it`);
    }
  }
  for (const path of folders) {
    if (!await isThere(deadline, path)) notes.push(`The folder "${path}" is not here: make it`);
  }
  return notes;
}

/** What may not be looked at is taken to be there. */
async function isThere(deadline: Deadline, path: string): Promise<boolean> {
  return await exists(deadline, path).catch(() => true);
}
