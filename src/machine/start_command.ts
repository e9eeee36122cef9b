/**
 * The command that starts a VM again, on its restored disks: QEMU's own command line with other paths. Pure.
 *
 * @module
 */

import { resolve } from "@std/path";
import { joinOption, jsonOf, lacksSecret, splitOption } from "./command_line.ts";
import type { Machine } from "./machine.ts";
import { swtpmCommand, type TpmFolder, tpmNote, withTpmAt } from "./tpm.ts";

/** A disk that was restored. */
export interface RestoredDisk {
  name: string;
  /** What QEMU called the file before. */
  source: string;
  /** Absolute. */
  file: string;
  format: string;
  /** The node that had the format. */
  node: string;
}

export interface StartCommand {
  argv: string[];
  /** Starts the VM's TPM, before it; null where there is nothing to start. */
  swtpm: string[] | null;
  /** What the user has to know, or to do by hand. */
  notes: string[];
}

/** Options that were for the start that was then, each with the number of its values. */
const DROPPED: Record<string, number> = { "-S": 0, "-incoming": 1, "-loadvm": 1 };

/**
 * Puts restored disks into QEMU's command line.
 *
 * @param workingFolder What its relative paths are relative to.
 * @param tpm Where the state of its TPM is; null if it was not saved.
 */
export function startCommand(
  commandLine: string[],
  disks: RestoredDisk[],
  { disks: devices, workingFolder, tpms }: Machine,
  tpm: TpmFolder | null = null,
): StartCommand {
  const pointed = tpm === null ? null : withTpmAt(commandLine, tpm);
  const placed = new Set<RestoredDisk>();
  const diskAt = (text: string): RestoredDisk | undefined => {
    const disk = disks.find(({ source }) => isSame(text, source, workingFolder));
    if (disk) placed.add(disk);
    return disk;
  };
  const argv: string[] = [];
  const old = pointed ?? commandLine;
  for (let i = 0; i < old.length; i++) {
    const arg = old[i] as string;
    const values = i > 0 ? DROPPED[arg] : undefined;
    if (values === undefined) argv.push(i === 0 ? arg : replaced(arg, disks, diskAt));
    else i += values;
  }
  const missing = disks.filter((disk) => !placed.has(disk));
  for (const disk of missing) {
    argv.push(...newDisk(disk, devices.find((device) => device.disk === disk.name)));
  }
  return {
    argv,
    swtpm: pointed && tpm && swtpmCommand(tpm),
    notes: [
      ...missing.map(({ name, file }) =>
        `The disk "${name}" is not in QEMU's command line (it was plugged in later), and was added at ` +
        `its end: check how "${file}" is attached`
      ),
      ...notesOf(commandLine),
      ...(pointed ? [] : tpms.map((id) => tpmNote(id, tpm))),
    ],
  };
}

/** What may stand in the way on another host. */
function notesOf(argv: string[]): string[] {
  const withOption = (...options: string[]) =>
    argv.filter((_, i) => options.includes(argv[i - 1] ?? ""));
  const networks = withOption("-netdev", "-nic", "-net")
    .filter((arg) => /^(tap|bridge|vhost|l2tpv3|vde|af-xdp)|"type":"(tap|bridge|vhost)/.test(arg));
  const passed = withOption("-device").filter((arg) =>
    /vfio|usb-host|scsi-(block|generic)/.test(arg)
  );
  const isOfLibvirt = argv.some((arg) => arg.includes("/var/lib/libvirt/qemu/domain-"));
  return [
    ...(isOfLibvirt
      ? [
        "libvirt started this VM, with file descriptors and sockets of its own: define the domain from its " +
        "XML instead, if it was saved (--save)",
      ]
      : []),
    ...networks.map((arg) => `The VM needs a network of the old host: ${arg}`),
    ...passed.map((arg) => `A device of the old host was passed through: ${arg}`),
    ...(lacksSecret(argv)
      ? ["Secrets were taken out of the command line: put them in the place of ***"]
      : []),
  ];
}

/** One argument with the new paths of the disks that it names. */
function replaced(
  arg: string,
  disks: RestoredDisk[],
  diskAt: (text: string) => RestoredDisk | undefined,
) {
  const json = arg.startsWith("{") ? jsonOf(arg) : null;
  if (json) return JSON.stringify(withoutBacking(replacedIn(json, diskAt), disks));
  const bare = diskAt(arg);
  if (bare) return bare.file;
  const parts = splitOption(arg);
  let isFile = false;
  const changed = parts.map(({ key, value }) => {
    const disk = key === null || /(^|\.)(file|filename)$/.test(key) ? diskAt(value) : undefined;
    isFile ||= disk !== undefined;
    return disk ? { key, value: disk.file } : { key, value };
  });
  if (!isFile) return withoutBackingOption(arg, disks);
  return withoutBackingOption(
    joinOption(
      changed.map(({ key, value }) =>
        /(^|\.)driver$/.test(key ?? "") && value === "host_device"
          ? { key, value: "file" }
          : { key, value }
      ),
    ),
    disks,
  );
}

function replacedIn(
  json: Record<string, unknown>,
  diskAt: (text: string) => RestoredDisk | undefined,
): Record<string, unknown> {
  let isFile = false;
  const entries = Object.entries(json).map(([key, value]): [string, unknown] => {
    if (typeof value === "object" && value !== null && !Array.isArray(value)) {
      return [key, replacedIn(Object.fromEntries(Object.entries(value)), diskAt)];
    }
    const disk = key === "filename" && typeof value === "string" ? diskAt(value) : undefined;
    isFile ||= disk !== undefined;
    return [key, disk ? disk.file : value];
  });
  const copy = Object.fromEntries(entries);
  return isFile && copy["driver"] === "host_device" ? { ...copy, driver: "file" } : copy;
}

/** A restored disk stands alone: what it stood on before is in it. */
function withoutBacking(
  json: Record<string, unknown>,
  disks: RestoredDisk[],
): Record<string, unknown> {
  const { backing: _, ...rest } = json;
  return disks.some(({ node }) => node === json["node-name"]) ? rest : json;
}

function withoutBackingOption(arg: string, disks: RestoredDisk[]): string {
  const parts = splitOption(arg);
  const node = parts.find(({ key }) => key === "node-name")?.value;
  if (!parts.some(({ key }) => key === "backing") || !disks.some((disk) => disk.node === node)) {
    return arg;
  }
  return joinOption(parts.filter(({ key }) => key !== "backing"));
}

/** Whether two names are of one file. */
function isSame(text: string, source: string, workingFolder: string | null): boolean {
  const path = pathOf(source);
  if (text === source || text === path) return true;
  if (workingFolder === null || path.startsWith("/") === text.startsWith("/")) return false;
  return resolve(workingFolder, text) === resolve(workingFolder, path);
}

/** QEMU calls a file that has options `json:{…}`. */
function pathOf(source: string): string {
  if (!source.startsWith("json:")) return source.replace(/^file:/, "");
  for (let node = jsonOf(source.slice("json:".length)); node;) {
    const { filename, file } = node;
    if (typeof filename === "string") return filename;
    node = typeof file === "object" && file !== null
      ? Object.fromEntries(Object.entries(file))
      : null;
  }
  return source;
}

/** The arguments that add a disk. */
export function newDisk(
  { name, file, format }: RestoredDisk,
  device?: Machine["disks"][number],
): string[] {
  const flash = /\.flash(\d+)$/.exec(device?.path ?? "")?.[1];
  if (flash !== undefined) {
    return ["-drive", option({ if: "pflash", unit: flash, format, file })];
  }
  const node = `restored-${name.replace(/[^A-Za-z0-9._-]/g, "-").slice(0, 20)}`;
  const place = device?.bootIndex ?? null;
  return [
    "-blockdev",
    option({ driver: format, "node-name": node, "file.driver": "file", "file.filename": file }),
    "-device",
    `${device?.driver || "virtio-blk-pci"},` + option({
      drive: node,
      ...(device?.serial ? { serial: device.serial } : {}),
      ...(place === null ? {} : { bootindex: String(place) }),
    }),
  ];
}

export const option = (options: Record<string, string>) =>
  joinOption(Object.entries(options).map(([key, value]) => ({ key, value })));
