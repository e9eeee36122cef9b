import { join } from "@std/path";
import { convertToRaw, create, type ImageFormat } from "./qemu_img.ts";
import { connectQmp, type Qmp, type QmpEvent } from "./qmp.ts";

/** A disk on an image file. */
export interface DiskSpec {
  /** The device's id, for example `"vd0"`. */
  id: string;
  /** The format node's name, for example `"disk0"`. */
  node: string;
  path: string;
  /** What QEMU is told instead of the path, if that is to be seen from {@linkcode VmOptions.cwd}. */
  filename?: string;
  format: ImageFormat;
  /** What is below the format. Default: `"file"`. */
  protocol?: "host_device";
  /** Needed when the image is to be created. */
  sizeBytes?: number;
  /** Whether to create the image. Default: if there's no such file. */
  create?: boolean;
  /**
   * Default: `"virtio-blk-pci"`. A `"scsi-hd"` needs a SCSI bus, and can be unplugged without the
   * guest's help.
   */
  driver?: "virtio-blk-pci" | "scsi-hd";
  /** The disk's place in the BIOS's order, from 0; the first is drive 0x80. */
  bootIndex?: number;
  /** Others may write to it, too. */
  shareRw?: boolean;
  /** The id of the iothread that serves it, to be made with `-object iothread,id=…`. */
  iothread?: string;
}

/** What VM to start. */
export interface VmOptions {
  /** Where sockets and log go. */
  dir: string;
  disks: readonly DiskSpec[];
  /** Default: `"testvm"`. */
  name?: string;
  /** Default: false, the CPU never starts. {@linkcode Vm.write} works all the same. */
  running?: boolean;
  /** Default: 64. */
  memoryMiB?: number;
  /** QEMU's working directory. */
  cwd?: string;
  /** More arguments for QEMU, as they are. */
  qemuArgs?: readonly string[];
}

/** A real QEMU, killed at the end of the test's scope. */
export interface Vm extends AsyncDisposable {
  readonly name: string;
  /** The QMP socket for the tool under test; the fixture talks on another. */
  readonly socket: string;
  /** What QEMU prints, stdout and stderr. */
  readonly log: string;
  readonly pid: number;
  readonly exited: Promise<Deno.CommandStatus>;
  /** All events on the fixture's connection so far, in order. */
  readonly events: QmpEvent[];
  /** Runs a QMP command on the fixture's own connection; throws if QEMU answers with an error. */
  execute(command: string, args?: Record<string, unknown>): Promise<unknown>;
  /**
   * Writes bytes of one value like the guest would: through the device, so through all filters.
   * QMP `stop` does not hold it back.
   *
   * @throws {Error} If the write failed.
   */
  write(diskId: string, pattern: number, offset: number, length: number): Promise<void>;
  /** Writes zeroes, which may deallocate; else like {@linkcode write}. */
  zero(diskId: string, offset: number, length: number): Promise<void>;
  /** Discards; else like {@linkcode write}. */
  discard(diskId: string, offset: number, length: number): Promise<void>;
  /** Flushes. Here a failure can't be seen: QEMU says nothing of it. */
  flush(diskId: string): Promise<void>;
  /** Copies what the disk holds now into a raw file. Nothing may write meanwhile. */
  snapshotContents(diskId: string, toPath: string): Promise<void>;
  /** Plugs in one disk more. */
  addDisk(disk: DiskSpec): Promise<void>;
  /** Ends QEMU cleanly; only so do persistent bitmaps reach the image. */
  quit(): Promise<void>;
  /** Sends a signal. It doesn't wait; `await vm.exited` does. */
  kill(signal?: Deno.Signal): void;
}

/** Starts QEMU and waits until both its sockets answer. */
export async function startVm(options: VmOptions): Promise<Vm> {
  const { dir, name = "testvm", running = false, memoryMiB = 64 } = options;
  const old = await isOldQemu();
  const socket = join(dir, `${name}.qmp`);
  const ownSocket = join(dir, `${name}.fixture.qmp`);
  const log = join(dir, `${name}.log`);
  const disks = new Map<string, DiskSpec>();
  for (const disk of options.disks) {
    await ensureImage(disk);
    disks.set(disk.id, disk);
  }

  await using onFailure = new AsyncDisposableStack();
  const child = new Deno.Command("sh", {
    // A shell only for the redirection: in a file, unlike a pipe, what QEMU printed before it
    // answered is there when the answer is.
    args: ["-c", 'log=$1; shift; exec "$@" >"$log" 2>&1', "sh", log, "qemu-system-x86_64", ...[
      ...["-accel", "tcg", "-nodefaults", "-display", "none"],
      ...["-name", name, "-m", String(memoryMiB)],
      ...(running ? [] : ["-S"]),
      ...[socket, ownSocket].flatMap((path) => ["-qmp", `unix:${commas(path)},server=on,wait=off`]),
      ...options.disks.flatMap((disk) => [
        ...(old
          ? ["-drive", keyValues(drive(disk))]
          : ["-blockdev", JSON.stringify(blockdev(disk))]),
        ...["-device", keyValues(device(old ? { ...disk, node: driveId(disk.id) } : disk))],
      ]),
      ...(options.qemuArgs ?? []),
    ]],
    stdin: "null",
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  }).spawn();
  let alive = true;
  const exited = child.status.finally(() => alive = false);
  const kill = (signal: Deno.Signal = "SIGKILL") => {
    try {
      child.kill(signal);
    } catch {
      // It has ended by itself.
    }
  };
  onFailure.defer(async () => {
    kill();
    await exited;
  });

  const giveUp = Date.now() + 120_000;
  /** Tries until QEMU listens, or ends, or there's no hope. */
  async function connect(path: string): Promise<Qmp> {
    while (alive) {
      try {
        return await connectQmp(path);
      } catch (error) {
        if (Date.now() > giveUp) throw error;
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    }
    throw new Error(`QEMU did not start: ${(await Deno.readTextFile(log)).trim()}`);
  }
  const qmp = onFailure.use(await connect(ownSocket));
  await (await connect(socket))[Symbol.asyncDispose]();
  const printed = onFailure.adopt(await Deno.open(log), (file) => file.close());

  let turn: Promise<unknown> = Promise.resolve();
  /** Runs a command of qemu-io on a device and returns what it printed, one call after the other. */
  function qemuIo(diskId: string, command: string): Promise<string> {
    const run = async () => {
      await readToEnd(printed);
      const part = disks.get(diskId)?.driver === "scsi-hd" ? "" : "/virtio-backend";
      const complaint = await qmp.execute("human-monitor-command", {
        "command-line": old
          ? `qemu-io ${driveId(diskId)} "${command}"`
          : `qemu-io -d /machine/peripheral/${diskId}${part} "${command}"`,
      });
      return String(complaint) || await readToEnd(printed);
    };
    const result = turn.then(run);
    turn = result.catch(() => {});
    return result;
  }

  /** As {@linkcode qemuIo}, for what prints `"wrote 512/512 bytes at offset 0"` if it was done. */
  async function change(diskId: string, command: string, offset: number, length: number) {
    const words = await qemuIo(diskId, `${command} ${offset} ${length}`);
    if (!words.includes(` ${length}/${length} bytes at offset ${offset}\n`)) {
      throw new Error(`"${command} ${offset} ${length}" on ${diskId} failed: ${words.trim()}`);
    }
  }

  const flush = async (diskId: string) => {
    const words = await qemuIo(diskId, "flush");
    if (words) throw new Error(`Cannot flush ${diskId}: ${words.trim()}`);
  };

  const cleanup = onFailure.move();
  return {
    name,
    socket,
    log,
    pid: child.pid,
    exited,
    events: qmp.events,
    execute: (command, args) => qmp.execute(command, args),
    write: (diskId, pattern, offset, length) =>
      change(diskId, `write -P ${pattern}`, offset, length),
    zero: (diskId, offset, length) => change(diskId, "write -z -u", offset, length),
    discard: (diskId, offset, length) => change(diskId, "discard", offset, length),
    flush,
    async snapshotContents(diskId, toPath) {
      const disk = disks.get(diskId);
      if (!disk) throw new Error(`The VM has no disk "${diskId}"`);
      await flush(diskId);
      await convertToRaw(disk.path, disk.format, toPath);
    },
    async addDisk(disk) {
      await ensureImage(disk);
      await qmp.execute("blockdev-add", blockdev(disk));
      await qmp.execute("device_add", device(disk));
      disks.set(disk.id, disk);
    },
    async quit() {
      await qmp.execute("quit");
      await exited;
    },
    kill,
    [Symbol.asyncDispose]: () => cleanup.disposeAsync(),
  };
}

/** The option has another name since QEMU 9.1. */
export async function asNobody(): Promise<string[]> {
  const { stdout } = await new Deno.Command("qemu-system-x86_64", { args: ["-help"] }).output();
  const isOld = new TextDecoder().decode(stdout).includes("-runas");
  return isOld ? ["-runas", "nobody"] : ["-run-with", "user=nobody"];
}

async function ensureImage({ path, format, sizeBytes, create: wanted }: DiskSpec): Promise<void> {
  if (!(wanted ?? !await exists(path))) return;
  if (sizeBytes === undefined) throw new Error(`No size to create "${path}" with`);
  await create(path, sizeBytes, { format });
}

/** Discards must reach the file, or `zero` and `discard` would change nothing. */
function blockdev({ node, path, filename = path, format, protocol }: DiskSpec) {
  return {
    driver: format,
    "node-name": node,
    discard: "unmap",
    file: { driver: protocol ?? "file", filename, discard: "unmap" },
  };
}

function device(
  { id, node, driver, bootIndex, iothread, shareRw }: DiskSpec,
): Record<string, unknown> {
  return {
    driver: driver ?? "virtio-blk-pci",
    drive: node,
    id,
    ...(bootIndex === undefined ? {} : { bootindex: bootIndex }),
    ...(iothread === undefined ? {} : { iothread }),
    ...(shareRw === true ? { "share-rw": true } : {}),
  };
}

/** The monitor's `qemu-io` knows devices since 6.1; before that only drives by their names. */
async function isOldQemu(): Promise<boolean> {
  const { stdout } = await new Deno.Command("qemu-system-x86_64", { args: ["--version"] }).output();
  const [, major, minor] = /version (\d+)\.(\d+)/.exec(new TextDecoder().decode(stdout)) ?? [];
  return Number(major) < 6 || (Number(major) === 6 && Number(minor) < 1);
}

function driveId(diskId: string): string {
  return `drive-${diskId}`;
}

/** As {@linkcode blockdev}, with a name. */
function drive({ id, node, path, format }: DiskSpec): Record<string, unknown> {
  return { if: "none", id: driveId(id), "node-name": node, file: path, format, discard: "unmap" };
}

function keyValues(options: Record<string, unknown>): string {
  return Object.entries(options).map(([key, value]) => `${key}=${commas(String(value))}`).join(",");
}

/** In QEMU's key=value lists a comma is written twice. */
function commas(text: string): string {
  return text.replaceAll(",", ",,");
}

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.lstat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

async function readToEnd(file: Deno.FsFile): Promise<string> {
  const decoder = new TextDecoder();
  const buffer = new Uint8Array(4096);
  let text = "";
  for (let n; (n = await file.read(buffer)) !== null;) {
    text += decoder.decode(buffer.subarray(0, n));
  }
  return text;
}
