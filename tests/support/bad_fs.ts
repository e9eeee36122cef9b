/**
 * Small file systems that can be made to misbehave. Need root.
 *
 * One goes through a FUSE server of its own (`bindfs`): stopped, it is an NFS server that does not
 * answer; killed, a disk that was pulled out. Who waits for it can be killed, as with NFS.
 *
 * @module
 */

import { basename } from "@std/path";
import { ensurePrograms } from "./install_qemu.ts";
import { until } from "./scene.ts";
import { command, mountTmpfs, type Tmpfs } from "./tmpfs.ts";

export interface BadFs extends Tmpfs {
  /** Answers nobody. */
  hang(): void;
  /** Answers again. */
  resume(): void;
  /** Goes away under those who use it. */
  disappear(): Promise<void>;
  /** Is no more at its place; those who have a file open go on. */
  unmount(): Promise<void>;
  /** Comes back with all that was written. */
  comeBack(): Promise<void>;
}

/** Mounts one of this size on a new folder. */
export async function mountBadFs(path: string, sizeBytes: number): Promise<BadFs> {
  await ensurePrograms({ bindfs: "bindfs", fusermount: "bindfs" });
  await using stack = new AsyncDisposableStack();
  const below = `${path}.below`;
  const storage = stack.use(await mountTmpfs(below, sizeBytes));
  await Deno.mkdir(path, { recursive: true });
  let server: Deno.ChildProcess;
  const start = async () => {
    const { dev } = await Deno.stat(path);
    server = new Deno.Command("bindfs", { args: ["-f", below, path], stdin: "null" }).spawn();
    await until(async () => (await Deno.stat(path)).dev !== dev);
    // The kernel learns that nobody needs to be told when a file is closed; else whoever has one open
    // can't end while the server does not answer.
    await Deno.writeTextFile(`${path}/.first`, "");
    await Deno.remove(`${path}/.first`);
  };
  const kill = async () => {
    server.kill("SIGKILL");
    await server.status;
  };
  // Lazily: a QEMU may still have files open in it. The server ends with the mount, or with us.
  let isMounted = true;
  const unmount = async () => {
    if (isMounted) await command("umount", "--lazy", path);
    isMounted = false;
  };
  await start();
  stack.defer(async () => {
    await unmount();
    await kill().catch(() => {});
  });
  const cleanup = stack.move();
  return {
    fill: storage.fill,
    freeBytes: storage.freeBytes,
    empty: storage.empty,
    hang: () => server.kill("SIGSTOP"),
    resume: () => server.kill("SIGCONT"),
    disappear: kill,
    unmount,
    async comeBack() {
      await unmount();
      await start();
      isMounted = true;
    },
    [Symbol.asyncDispose]: () => cleanup.disposeAsync(),
  };
}

export interface ThinFs extends Tmpfs {
  /** Turns read-only, as it does when it finds an error in itself. */
  setReadOnly(): Promise<void>;
  /** Mounts it again. */
  comeBack(): Promise<void>;
}

/**
 * Mounts an ext4 whose disk is thin, and runs out of room behind its back when it is filled: it takes
 * what is written, and fails with an I/O error when that is flushed.
 */
export async function mountThin(path: string, sizeBytes: number): Promise<ThinFs> {
  await using stack = new AsyncDisposableStack();
  const below = `${path}.below`;
  const storage = stack.use(await mountTmpfs(below, sizeBytes));
  const image = `${below}/disk`;
  await command("truncate", "--size", String(sizeBytes * 4), image);
  await command("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard", image);
  await Deno.mkdir(path, { recursive: true });
  // On a new device each time: `mount -o loop` takes the one that failed again while a program holds it, such as
  // one that has copied all mounts (unshare).
  const mount = async () => {
    const device = await command("losetup", "--find", "--show", image);
    try {
      await command("mount", "-o", "errors=remount-ro", device, path);
    } finally {
      // It goes with the mount.
      await command("losetup", "--detach", device);
    }
  };
  const deviceOf = () => command("findmnt", "-no", "SOURCE", path);
  const unmount = () => command("umount", "--lazy", path);
  await mount();
  stack.defer(async () => void await unmount());
  const cleanup = stack.move();
  return {
    fill: storage.fill,
    freeBytes: storage.freeBytes,
    empty: storage.empty,
    async setReadOnly() {
      await Deno.writeTextFile(`/sys/fs/ext4/${basename(await deviceOf())}/trigger_fs_error`, "1");
    },
    async comeBack() {
      // The old device must have nothing left to write into what the new one changes.
      await command("blockdev", "--flushbufs", await deviceOf());
      await retry(() => command("umount", path));
      await mount();
    },
    [Symbol.asyncDispose]: () => cleanup.disposeAsync(),
  };
}

/** A file that was closed just now may keep a file system busy for a moment. */
async function retry(work: () => Promise<unknown>) {
  for (let tries = 1;; tries++) {
    try {
      return void await work();
    } catch (error) {
      if (tries === 50) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}
