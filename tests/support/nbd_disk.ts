/**
 * A disk of a VM whose storage is a server that can be killed: a real `qemu-nbd`.
 *
 * @module
 */

import { ensurePrograms } from "./install_qemu.ts";
import { compare, create, type ImageFormat, qemuIo } from "./qemu_img.ts";
import { until } from "./scene.ts";
import { succeed } from "./tool.ts";
import type { Vm } from "./vm.ts";

const MIB = 1 << 20;

export interface NbdDisk extends AsyncDisposable {
  /** The device's id; its node is called so, too. */
  id: string;
  kill(): Promise<void>;
  comeBack(): Promise<void>;
  /** Copies what it holds now, to be compared with later. */
  remember(moment: string): Promise<void>;
  /** Restores it alone, at its last point, and compares. */
  assertRestores(target: string, moment: string): Promise<void>;
}

export interface NbdDiskOptions {
  vm: Vm;
  /** A folder for its files. */
  dir: string;
  id: string;
  /** What the guest's disk is; the server serves it as plain bytes. */
  format: ImageFormat;
}

/** Plugs one in, with some data: 64 MiB. */
export async function plugNbdDisk({ vm, dir, id, format }: NbdDiskOptions): Promise<NbdDisk> {
  await ensurePrograms({ "qemu-nbd": "qemu-utils" });
  await using stack = new AsyncDisposableStack();
  const [socket, file] = [`${dir}/${id}.nbd-server`, `${dir}/${id}.served`];
  await create(file, 64 * MIB, { format });
  await qemuIo(file, format, "write -P 0x71 0 6M");
  // What is served can't grow.
  await Deno.truncate(file, (format === "raw" ? 64 : 128) * MIB);
  let server: Deno.ChildProcess;
  const start = async () => {
    const args = ["--persistent", "--socket", socket, "--format", "raw", file];
    server = new Deno.Command("qemu-nbd", { args, stdin: "null" }).spawn();
    await until(() => Deno.lstat(socket).then(() => true, () => false));
  };
  const kill = async () => {
    server.kill("SIGKILL");
    await server.status;
    await Deno.remove(socket).catch(() => {});
  };
  await start();
  stack.defer(() => kill().catch(() => {}));
  const storage = { driver: "nbd", server: { type: "unix", path: socket } };
  await vm.execute("blockdev-add", { driver: format, "node-name": id, file: storage });
  await vm.execute("device_add", { driver: "virtio-blk-pci", drive: id, id });
  const cleanup = stack.move();
  let restores = 0;
  return {
    id,
    kill,
    comeBack: start,
    async remember(moment) {
      await vm.flush(id);
      await Deno.copyFile(file, `${dir}/${moment}.${id}`);
    },
    async assertRestores(target, moment) {
      const out = `${dir}/${id}.out${restores++}`;
      await succeed(["restore", "merge", "--dir", `${target}/${id}`, "--targetfile", out]);
      await compare(`${dir}/${moment}.${id}`, format, out, "qcow2");
    },
    [Symbol.asyncDispose]: () => cleanup.disposeAsync(),
  };
}
