/**
 * A real Linux with a real guest agent, made of Debian's packages; its own files live in memory.
 *
 * Each disk holds an ext4, mounted at `/mnt/<node>`. What is written there stays in the guest's
 * memory until it's synced or frozen: the guest doesn't write back by itself.
 *
 * @example
 * ```ts
 * await using guest = await startLinuxGuest({ dir: dir.path, disks });
 * await guest.writeFile("/mnt/disk0/a.txt", "on no disk yet");
 * await succeed([…, "--socket", guest.vm.socket, "--agent-socket", guest.agentSocket]);
 * ```
 *
 * @module
 */

import { fromFileUrl, join } from "@std/path";
import {
  type DebPackages,
  decode,
  newestVersions,
  unpackPackages,
  updateLists,
} from "./deb_packages.ts";
import { findKernel, makeInitramfs } from "./initramfs.ts";
import { takeTurn } from "./turn.ts";
import { startVm, type Vm, type VmOptions } from "./vm.ts";

const CACHE = fromFileUrl(new URL("../../.build/linux-guest", import.meta.url));

const PACKAGES: DebPackages = {
  names: ["linux-image-cloud-amd64", "busybox-static", "qemu-guest-agent", "e2fsprogs"],
  stateDir: join(CACHE, "apt"),
};

/** What to boot: paths of files. */
export interface LinuxGuestFiles {
  kernel: string;
  initramfs: string;
}

/**
 * Finds the guest, or makes it, which takes some seconds and the network.
 *
 * What was made stays good until `.build/linux-guest` is removed: only to make a guest is the
 * network asked for the newest packages.
 *
 * @throws {Error} If the machine has no apt, or apt no Debian.
 */
export async function ensureLinuxGuest(): Promise<LinuxGuestFiles> {
  const made = await findMade();
  if (made) return made;

  // One at a time: the others then find what the first has made.
  using _turn = await takeTurn(join(CACHE, "lock"));
  return await findMade() ?? await make();
}

/** Makes the guest of the newest packages, in the name of all: the caller holds the lock. */
async function make(): Promise<LinuxGuestFiles> {
  // One source of many may fail, and another have all that's needed.
  const complaint = await updateLists(PACKAGES).catch((error: unknown) => error);
  const folder = await folderOfNewest();
  if (folder === undefined) {
    const names = PACKAGES.names.join(", ");
    throw new Error(`apt does not know all of ${names}: is this a Debian?`, { cause: complaint });
  }
  const made = await findMade();
  if (made) return made;
  const work = join(CACHE, "tmp");
  await removeAll(work);
  try {
    const root = join(work, "root");
    const result = join(work, "result");
    await Deno.mkdir(result, { recursive: true });
    await unpackPackages(PACKAGES, root);
    const files = filesIn(result);
    await Deno.copyFile(await findKernel(root), files.kernel);
    await Deno.writeFile(files.initramfs, await makeInitramfs(root));
    await Deno.rename(result, folder);
  } finally {
    await removeAll(work);
  }
  return filesIn(folder);
}

async function removeAll(path: string): Promise<void> {
  try {
    await Deno.remove(path, { recursive: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

async function findMade(): Promise<LinuxGuestFiles | undefined> {
  const folder = await folderOfNewest();
  if (folder === undefined) return undefined;
  try {
    await Deno.stat(folder);
    return filesIn(folder);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** Where a guest of the newest packages belongs; undefined if they aren't known yet. */
async function folderOfNewest(): Promise<string | undefined> {
  const versions = await newestVersions(PACKAGES);
  if (versions === undefined) return undefined;
  const recipe = await Deno.readTextFile(new URL("initramfs.ts", import.meta.url));
  const all = new TextEncoder().encode(JSON.stringify([versions, recipe]));
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", all));
  return join(CACHE, Array.from(hash.subarray(0, 8), hex).join(""));
}

function hex(byte: number): string {
  return byte.toString(16).padStart(2, "0");
}

function filesIn(folder: string): LinuxGuestFiles {
  return { kernel: join(folder, "vmlinuz"), initramfs: join(folder, "initramfs") };
}

/** What a command in the guest said and how it ended. */
export interface GuestResult {
  /** The exit code, or 128 and the signal, as in a shell. */
  code: number;
  stdout: string;
  stderr: string;
}

/** A Linux that runs. The fixture leaves the agent free when it doesn't ask it anything. */
export interface LinuxGuest extends AsyncDisposable {
  readonly vm: Vm;
  /** The agent's socket, for the tool under test. It serves one client after the other. */
  readonly agentSocket: string;
  /** All that the kernel and the agent print. */
  readonly serialLog: string;
  /**
   * Runs a command of the agent and returns its `return`.
   *
   * @throws {Error} If the agent refuses, or does not answer within three minutes.
   */
  agent(command: string, args?: Record<string, unknown>): Promise<unknown>;
  /**
   * Runs a program in the guest, busybox's are all there, and waits for its end.
   *
   * What is to run on in the background must not keep stdout and stderr open.
   */
  exec(argv: readonly string[], input?: string): Promise<GuestResult>;
  /** Whether the guest's file systems are frozen, as the agent says. */
  freezeStatus(): Promise<"thawed" | "frozen">;
  /**
   * Writes a file. Without `sync` it's on no disk until something else brings it there; with it it
   * may stand in the journal only, so who looks for it in a copy of the disk must replay that.
   */
  writeFile(path: string, text: string, options?: { sync?: boolean }): Promise<void>;
}

/** What guest to start. */
export interface LinuxGuestOptions extends Omit<VmOptions, "running"> {
  /** Whether to format the disks that are blank, and mount all. Default: true. */
  mount?: boolean;
}

const PATIENCE_MS = 180_000;

/**
 * Starts the guest and waits until the agent answers and the disks are mounted.
 *
 * @throws {Error} If one of that takes over three minutes, with the last that the guest printed.
 */
export async function startLinuxGuest(options: LinuxGuestOptions): Promise<LinuxGuest> {
  const { dir, name = "testvm", memoryMiB = 256, mount = true } = options;
  const { kernel, initramfs } = await ensureLinuxGuest();
  const agentSocket = join(dir, `${name}.agent`);
  const serialLog = join(dir, `${name}.serial.log`);
  await using onFailure = new AsyncDisposableStack();
  const vm = onFailure.use(
    await startVm({
      ...options,
      memoryMiB,
      running: true,
      qemuArgs: [
        ...["-kernel", kernel, "-initrd", initramfs, "-append", "console=ttyS0 quiet panic=-1"],
        // Without random numbers from the CPU each mke2fs waits 4 s for some of better kind.
        ...["-cpu", "qemu64,+rdrand"],
        // After a panic QEMU ends, and who waits for the agent knows at once.
        ...["-no-reboot", "-serial", `file:${serialLog}`],
        ...["-chardev", `socket,id=agent,path=${commas(agentSocket)},server=on,wait=off`],
        ...["-device", "virtio-serial-pci"],
        ...["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"],
        ...(options.qemuArgs ?? []),
      ],
    }),
  );

  let turn: Promise<unknown> = Promise.resolve();
  /** Connects, works and leaves; one after the other. */
  function withAgent<T>(work: (ask: Ask) => Promise<T>): Promise<T> {
    const result = turn.then(() => talk(agentSocket, work));
    turn = result.catch(() => {});
    return result;
  }

  const guest: Omit<LinuxGuest, keyof AsyncDisposable> = {
    vm,
    agentSocket,
    serialLog,
    agent: (command, args) => withAgent((ask) => ask(command, args)),
    exec: (argv, input) => withAgent((ask) => exec(ask, argv, input)),
    freezeStatus: () =>
      withAgent(async (ask) => await ask("guest-fsfreeze-status") as "thawed" | "frozen"),
    async writeFile(path, text, { sync = false } = {}) {
      // Only this file's disk: a "sync" would be for all of them.
      const flags = sync ? ["conv=fsync"] : [];
      await succeed(guest, ["dd", `of=${path}`, ...flags], text);
    },
  };
  try {
    await guest.agent("guest-ping");
    if (mount) await mountDisks(guest, options.disks);
  } catch (error) {
    const said = (await Deno.readTextFile(serialLog)).trim().split("\n").slice(-20).join("\n");
    throw new Error(`The guest did not start: ${error}\n${said}`, { cause: error });
  }
  const cleanup = onFailure.move();
  return { ...guest, [Symbol.asyncDispose]: () => cleanup.disposeAsync() };
}

/**
 * Mounts a disk. Only what is blank at its head is formatted: a file system that was restored, and
 * wrongly, must not be replaced by one that is all right.
 *
 * All is written at once, for nothing to come from the kernel later.
 */
const MOUNT = `
set -e
device=/dev/$(ls /sys/bus/pci/devices/0000:00:$1.0/virtio*/block)
if [ "$(head -c 65536 $device | tr -d '\\0' | wc -c)" = 0 ]; then
  /sbin/mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 $device
fi
mkdir -p "/mnt/$2"
mount -t ext4 -o commit=3600 $device "/mnt/$2"
sync
`;

async function mountDisks(
  guest: Pick<LinuxGuest, "vm" | "exec">,
  disks: VmOptions["disks"],
): Promise<void> {
  const [bus] = await guest.vm.execute("query-pci") as {
    devices: { qdev_id: string; slot: number }[];
  }[];
  for (const { id, node } of disks) {
    const slot = bus?.devices.find(({ qdev_id }) => qdev_id === id)?.slot;
    if (slot === undefined) throw new Error(`The disk "${id}" is not on the PCI bus`);
    await succeed(guest, ["sh", "-c", MOUNT, "sh", hex(slot), node]);
  }
}

async function succeed(
  guest: Pick<LinuxGuest, "exec">,
  argv: readonly string[],
  input?: string,
): Promise<void> {
  const { code, stdout, stderr } = await guest.exec(argv, input);
  if (code === 0) return;
  throw new Error(`In the guest "${argv.join(" ")}" ended with ${code}: ${stdout}${stderr}`);
}

type Ask = (command: string, args?: Record<string, unknown>) => Promise<unknown>;

interface Answer {
  return?: unknown;
  error?: { desc: string };
}

/** Talks with the agent for a while; on purpose not with the client under test. */
async function talk<T>(socket: string, work: (ask: Ask) => Promise<T>): Promise<T> {
  using connection = await Deno.connect({ transport: "unix", path: socket });
  let late = false;
  const tooLong = setTimeout(() => {
    late = true;
    connection.close();
  }, PATIENCE_MS);
  const lines = readLines(connection);
  const ask: Ask = async (command, args = {}) => {
    await send(connection, { execute: command, arguments: args });
    const { return: value, error }: Answer = JSON.parse(await next(lines));
    if (error) throw new Error(`The agent refuses "${command}": ${error.desc}`);
    return value;
  };
  try {
    await synchronize(connection, lines);
    return await work(ask);
  } catch (error) {
    throw late ? new Error(`The agent said nothing for ${PATIENCE_MS / 1000} s`) : error;
  } finally {
    clearTimeout(tooLong);
  }
}

/** Finds the first answer that is for us: what comes before was for somebody who has left. */
async function synchronize(connection: Deno.Conn, lines: AsyncGenerator<string>): Promise<void> {
  const id = crypto.getRandomValues(new Uint32Array(1))[0];
  await send(connection, { execute: "guest-sync-delimited", arguments: { id } });
  // The agent sends a byte 0xff before it, which decodes to this.
  while (await next(lines).then((line) => line.split("\ufffd").at(-1)) !== `{"return": ${id}}`);
}

async function exec(ask: Ask, argv: readonly string[], input?: string): Promise<GuestResult> {
  const [path, ...arg] = argv;
  const { pid } = await ask("guest-exec", {
    path,
    arg,
    "capture-output": true,
    ...(input === undefined ? {} : { "input-data": toBase64(input) }),
  }) as { pid: number };
  while (true) {
    const status = await ask("guest-exec-status", { pid }) as {
      exited: boolean;
      exitcode?: number;
      signal?: number;
      "out-data"?: string;
      "err-data"?: string;
    };
    if (status.exited) {
      return {
        code: status.exitcode ?? 128 + (status.signal ?? 0),
        stdout: fromBase64(status["out-data"] ?? ""),
        stderr: fromBase64(status["err-data"] ?? ""),
      };
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function send(connection: Deno.Conn, request: unknown): Promise<void> {
  let bytes = new TextEncoder().encode(JSON.stringify(request) + "\n");
  while (bytes.length > 0) bytes = bytes.subarray(await connection.write(bytes));
}

async function* readLines(connection: Deno.Conn): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  const buffer = new Uint8Array(1 << 16);
  let rest = "";
  for (let n; (n = await connection.read(buffer)) !== null;) {
    const lines = (rest + decoder.decode(buffer.subarray(0, n), { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    yield* lines;
  }
}

async function next(lines: AsyncGenerator<string>): Promise<string> {
  const { value, done } = await lines.next();
  if (done) throw new Error("QEMU is gone");
  return value;
}

function toBase64(text: string): string {
  return btoa(Array.from(new TextEncoder().encode(text), (b) => String.fromCharCode(b)).join(""));
}

function fromBase64(base64: string): string {
  return decode(Uint8Array.from(atob(base64), (character) => character.charCodeAt(0)));
}

/** In QEMU's key=value lists a comma is written twice. */
function commas(text: string): string {
  return text.replaceAll(",", ",,");
}
