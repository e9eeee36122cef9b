import { basename, dirname, join, resolve } from "@std/path";
import type { Deadline } from "../../fs/deadline.ts";
import { listFolder } from "../../fs/files.ts";
import { placeOf } from "../../attach/attach.ts";
import { refuseAttached } from "../../attach/detach.ts";
import { holderNow, takeLock } from "../../fs/flock.ts";
import { lookAt, refuseLink } from "../../fs/create.ts";
import { requireSymlinks } from "../../fs/durable.ts";
import {
  readTarget,
  refuseLinks,
  refuseShared,
  refuseSharedFolder,
} from "../../repo/repository.ts";
import { LOCK_FILE } from "../../repo/layout.ts";
import { writeRestoreFile } from "../../repo/restore_file.ts";
import { Failure, UsageError } from "../../errors.ts";
import { imageFacts } from "../../qemu_img/qemu_img.ts";
import { applySteps, removeGivenUp, writtenBy } from "../../restore/apply.ts";
import {
  besideOf,
  commandOf,
  planCommit,
  planRebase,
  type Step,
  wholeChains,
} from "../../restore/in_place.ts";
import { type CheckedImage, checkImages } from "../../restore/check_images.ts";
import {
  type Layer,
  pickPoint,
  pointsOfDisk,
  type RestorePoint,
  runsOf,
} from "../../restore/points.ts";
import { jsonLine } from "../output/report.ts";
import type { CommandContext } from "./context.ts";
import { shellText } from "../../shell.ts";

type Way = "rebase" | "commit" | "snapshotrebase";

/** `qmpbackup restore rebase`, `commit` and `snapshotrebase`. */
export function restoreInPlace(way: Way): (context: CommandContext) => Promise<number> {
  return async ({ values, io, deadline, signal }) => {
    const dir = resolve(values.dir ?? ".");
    const [first] = await pointsOfDisk(deadline, dir, values.filter);
    const target = first?.target ?? null;
    if (target === null) await refuseSharedFolder(deadline, dir);
    else {
      const records = await readTarget(deadline, target);
      await refuseLinks(deadline, records);
      await refuseShared(deadline, records);
    }
    using _lock = target === null
      ? null
      : await takeLock(deadline, join(target, LOCK_FILE), holderNow("of a restore in place"));
    if (first && target !== null && !values["dry-run"]) {
      await removeGivenUp(deadline, target, join(target, first.folder));
    }
    // Read again under the lock: a run may have ended between.
    const points = (await pointsOfDisk(deadline, dir, values.filter)).filter(({ level }) =>
      level !== "copy"
    );
    if (new Set(points.map((point) => point.target)).size > 1) {
      throw new UsageError(
        `"${dir}" holds the months of --monthly: name a disk's folder in one of them`,
      );
    }
    const point = pickPoint(points, values.until ?? null, await runsOf(deadline, points));
    const layers = point.layers();
    if (layers.length < 2) {
      throw new UsageError(`"${point.name}" in "${dir}" has no increment: there is nothing to do`);
    }
    if (layers.some(({ isRaw }) => isRaw)) {
      throw new UsageError(`"${dir}" holds raw images, which can't be linked: use "restore merge"`);
    }
    if (layers.some(({ isEncrypted }) => isEncrypted)) {
      throw new UsageError(
        `"${dir}" holds encrypted images, which are not changed in place: use "restore merge", or ` +
          '"cleanup --prune" for fewer images',
      );
    }
    const images = await checkImages(layers, {
      skipCheck: values["skip-check"] ?? false,
      keyFile: null,
      deadline,
      signal,
    });
    refuseHole(layers, images);
    if (way !== "rebase") refuseShrunk(layers, images);
    const steps = await planSteps(deadline, way, points, layers);
    const refuseOpen = () =>
      refuseAttached(deadline, placeOf(point), layers.map(({ path }) => path), Deno.hostname());
    await refuseOpen();
    await refuseLinkedImages(deadline, layers, steps);
    const rateLimitBytesPerSecond = values["rate-limit"] ?? 0;
    const commands = steps.flatMap((step) => {
      const argv = commandOf(step, rateLimitBytesPerSecond);
      return argv ? [argv] : [];
    });
    const isDryRun = values["dry-run"] ?? false;
    if (!isDryRun) {
      await requireSymlinks();
      const known = new Map(
        images.flatMap(({ seen }, i) => seen ? [[layers[i]?.path ?? "", seen.fingerprint]] : []),
      );
      const digest = !values["no-digest"];
      await applySteps(steps, target, {
        rateLimitBytesPerSecond,
        deadline,
        signal,
        known,
        refuseOpen,
        digest,
      });
      if (target !== null) {
        await writeRestoreFile(deadline, target, (await readTarget(deadline, target)).runs);
      }
    }
    if (values.json) {
      const state = isDryRun ? "planned" : "done";
      io.stdout(jsonLine("summary", { state, point: point.name, commands }));
    } else if (isDryRun) {
      for (const argv of [...await chmodOf(deadline, steps), ...commands]) {
        io.stdout(shellText(argv) + "\n");
      }
    } else {
      io.stdout(`${way} of ${layers.length} images up to ${point.name}: done\n`);
    }
    return 0;
  };
}

/** Finished images can't be written: who does it by hand has to change that first. */
async function chmodOf(deadline: Deadline, steps: Step[]): Promise<string[][]> {
  const locked: string[] = [];
  for (const path of new Set(steps.flatMap(writtenBy))) {
    if (!(((await lookAt(deadline, path))?.mode ?? 0) & 0o200)) locked.push(path);
  }
  return locked.length > 0 ? [["chmod", "u+w", ...locked]] : [];
}

/** Another image in the folder that builds on one of these: the disk of a VM that was started on a backup. */
async function unknownChild(
  deadline: Deadline,
  points: RestorePoint[],
  layers: Layer[],
): Promise<{ path: string } | undefined> {
  const dir = dirname((layers[0] as Layer).path);
  const known = new Set(points.map(({ name }) => name));
  const ours = new Set(layers.map(({ path }) => path));
  for (const { name, isFile } of await listFolder(deadline, dir)) {
    if (!isFile || known.has(name)) continue;
    const path = join(dir, name);
    const backing = await imageFacts(deadline, path).then(({ backing }) => backing, () => null);
    const parent = backing === null ? null : resolve(dir, backing);
    if (parent !== null && ours.has(parent)) return { path };
  }
}

/** Writing through a link would change an image outside of the folder. */
async function refuseLinkedImages(deadline: Deadline, layers: Layer[], steps: Step[]) {
  const written = steps.filter(({ kind }) => kind !== "symlink");
  const paths = new Set([...layers, ...written].map(({ path }) => path));
  for (const path of paths) await refuseLink(deadline, path);
}

/**
 * An image must build on one of those below it. After an interrupted `commit` that need not be the one right
 * below. Only the name counts, since the folder may have been moved.
 */
function refuseHole(layers: Layer[], images: CheckedImage[]) {
  for (const [i, { path, twins = [] }] of layers.entries()) {
    const backing = images[i]?.backing ?? null;
    const below = [...layers.slice(0, i).map((layer) => layer.path), ...twins].map((one) =>
      basename(one)
    );
    if (backing === null || below.includes(basename(backing))) continue;
    throw new Failure(
      `"${path}" builds on "${backing}", which is not in its chain: the folder was changed, and ` +
        "its images would be damaged. Put the missing image back, or restore an earlier point " +
        "(restore merge --until)",
    );
  }
}

/** `qemu-img commit` makes an image never smaller: data that was cut off would come back. */
function refuseShrunk(layers: Layer[], images: CheckedImage[]) {
  const at = images.findIndex(({ virtualSizeBytes }, i) =>
    images.slice(0, i).some((below) => below.virtualSizeBytes > virtualSizeBytes)
  );
  if (at < 0) return;
  throw new Failure(
    `The disk is smaller in "${
      layers[at]?.path
    }" than before: these images can't be committed into one. ` +
      'Use "restore merge"',
  );
}

async function planSteps(
  deadline: Deadline,
  way: Way,
  points: RestorePoint[],
  layers: Layer[],
): Promise<Step[]> {
  if (way === "rebase") return planRebase(layers);
  const chains = wholeChains(points);
  const beside = besideOf(chains, layers) ??
    await unknownChild(deadline, points, layers);
  if (beside) {
    throw new Failure(
      `"${beside.path}" also builds on these images, and would be damaged: copy what it holds to a ` +
        "new file (qemu-img convert), and move it away",
    );
  }
  const last = layers.at(-1)?.path;
  const following = chains.flat()
    .filter(({ parent }) => parent === last).map(({ path }) => path);
  const full = layers[0] as Layer;
  const snapshots = way === "commit" ? null : (await imageFacts(deadline, full.path)).snapshots;
  return planCommit(layers, [...new Set(following)], snapshots);
}
