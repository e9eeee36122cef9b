/**
 * Attached points in a life: they hold what they held, whatever else goes on, until they are let go.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { basename, join } from "@std/path";
import { StoppedError } from "../../src/errors.ts";
import { ensurePrograms } from "../support/install_qemu.ts";
import { qemuImg } from "../support/qemu_img.ts";
import { mustRun } from "../support/run.ts";
import { succeed, tool } from "../support/tool.ts";
import { changed, difference, readSectors, type Sectors, sectorsToBytes } from "./shadow.ts";
import type { AttachStep, DetachStep } from "./steps.ts";
import type { Row, Target } from "./target.ts";
import { pick, type World } from "./world.ts";

/** More of them would keep every chain from being pruned. */
const MAX_ATTACHED = 2;

export interface Attached {
  name: string;
  target: Target;
  /** Of its overlay or sockets. */
  folder: string;
  /** What the tool says that it stands on, relative to the target. */
  images: string[];
  id: string;
  open: string;
  format: "qcow2" | "raw";
  /** What it must hold. */
  now: Sectors;
}

/** Attaches a point, compares it, and writes into it if it is an overlay. */
export async function attachPoint(world: World, step: AttachStep): Promise<void> {
  const target = pick(world.targets, step.target);
  const points = target.points();
  if (points.length === 0 || world.attached.length === MAX_ATTACHED) return;
  await ensurePrograms({ "qemu-storage-daemon": "qemu-system-common" });
  const [run, row] = pick(points, step.point);
  const folder = world.dir.join("vm", `a${world.tally.steps}`);
  world.onEnd(() => detach(target, "all"));
  const stop = new AbortController();
  const timer = step.stopAfterMs === null
    ? undefined
    : setTimeout(() => stop.abort(new StoppedError("SIGINT")), step.stopAfterMs);
  const { code, stdout, stderr } = await tool([
    ...["restore", "attach", "--json", "--dir", join(target.path, row.folder)],
    ...["--until", basename(row.file), "--target-dir", folder, ...(step.nbd ? ["--nbd"] : [])],
  ], stop.signal);
  clearTimeout(timer);
  world.tell(`restore attach of ${target.path}/${row.file} → ${code}`);
  world.count(`restore attach → ${code}`);
  assert([0, ...(step.stopAfterMs === null ? [] : [130])].includes(code), `${code}: ${stderr}`);
  if (code !== 0) return await assertListed(world, target);
  const { name, disks: [disk] } = JSON.parse(stdout);
  const [open, format] = [disk.open, step.nbd ? "raw" as const : "qcow2" as const];
  const now = await read(world, { open, format });
  target.narrow(run, row, now);
  const attached = { name, target, folder, images: disk.images, id: row.id, open, format, now };
  world.attached.push(attached);
  if (!step.nbd) await write(attached, step);
  await assertAttached(world);
  await assertListed(world, target);
}

/** As a VM would that was started on it. */
async function write(attached: Attached, { at, value }: AttachStep) {
  const { now, open, id } = attached;
  const first = Math.floor(at * now.length);
  const count = Math.min(256, now.length - first);
  const [offset, length] = [first, count].map(sectorsToBytes);
  await mustRun("qemu-io", [
    ...["-f", "qcow2", "-c", `write -q -P ${value} ${offset} ${length}`, open],
  ]);
  const shadow = changed(new Map([[id, now]]), { kind: "write", disk: id, first, count, value });
  attached.now = shadow.get(id) ?? now;
}

async function read(world: World, { open, format }: Pick<Attached, "open" | "format">) {
  const raw = world.dir.join("vm", "attached.raw");
  await qemuImg(["convert", "-f", format, "-O", "raw", open, raw]);
  const sectors = await readSectors(raw);
  await Deno.remove(raw);
  return sectors;
}

/** Compares all that is attached with what it must hold. */
export async function assertAttached(world: World): Promise<void> {
  for (const one of world.attached) {
    const found = difference(one.now, await read(world, one));
    assertEquals(found, null, `${one.name}, attached of ${one.target.path}`);
    world.tally.compared++;
  }
}

/** What lives is listed, and nothing else. */
async function assertListed(world: World, target: Target) {
  const { stdout } = await succeed(["restore", "attach", "--dir", target.path, "--list", "--json"]);
  const lines = stdout.trim().split("\n").map((line) => JSON.parse(line));
  assertEquals(
    lines.filter(({ state }) => state === "attached").map(({ name }) => name).sort(),
    world.attached.filter((one) => one.target === target).map(({ name }) => name).sort(),
  );
}

/** Lets one go, or removes its overlay by hand: that is swept by whatever looks next. */
export async function detachOne(world: World, { which, byHand }: DetachStep): Promise<void> {
  if (world.attached.length === 0) return;
  const one = pick(world.attached, which);
  await assertAttached(world);
  world.attached = world.attached.filter((other) => other !== one);
  if (byHand && one.format === "qcow2") {
    world.tell(`${one.folder} is removed`);
    return await Deno.remove(one.folder, { recursive: true });
  }
  world.tell(`restore attach --detach ${one.name}`);
  world.count("restore attach --detach → 0");
  await detach(one.target, one.name);
  assertEquals(await Array.fromAsync(Deno.readDir(one.folder)), []);
}

/** Lets all go that is attached of a target. */
export async function detachAll(world: World, target: Target): Promise<void> {
  world.attached = world.attached.filter((one) => one.target !== target);
  await detach(target, "all");
}

async function detach(target: Target, name: string) {
  await succeed(["restore", "attach", "--dir", target.path, "--detach", name]);
}

/** Whether one of these images is below something that is attached. */
export function isAttached(world: World, target: Target, rows: readonly Row[]): boolean {
  const images = world.attached.filter((one) => one.target === target)
    .flatMap(({ images }) => images);
  return rows.some(({ file }) => images.includes(file));
}
