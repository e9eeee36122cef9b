/**
 * The names of all that a run puts into QEMU, made and read here alone. Pure.
 *
 * ```
 * qmpbackup-<tag>-<number of the disk>-<role>    a node, an export, the bitmap of a job, an object
 * qmpbackup.<tag>.<disk>                         the job that copies a disk
 * qmpbackup.<tag>.<disk>.again                   the job that reads again what that one could not
 * qmpbackup.<tag>.<disk>.look                    the job that looks what is allocated, see `allocation.ts`
 * qmpbackup-<disk>-<tag>-<chain's id>            the bitmap of a backup
 * qmpbackup-<disk>-<tag>-<chain's id>(end)       the sentinel of a disk, see `sentinel.ts`
 * qmpbackup-<role>                               a mark, see `marks.ts`
 * ```
 *
 * A tag is eight hexadecimal digits, and tells the run. Recovery looks for these names and no others. So a new role
 * goes into the tables below: what is named elsewhere would stay in QEMU for ever.
 *
 * @module
 */

/**
 * What a node is for, in the order in which those of a dead run are removed: what stands on others goes
 * first. "running" keeps a migration away until all others are gone.
 */
export const NODE_ROLES = [
  "stand",
  "snap",
  "gate",
  "cbw",
  "target",
  "file",
  "fleece",
  "end",
  "point",
  "since",
  "empty",
  "running",
] as const;
export type NodeRole = (typeof NODE_ROLES)[number];

/** Names that look like those of nodes, for other things. */
export const EXPORT_ROLES = ["export"] as const;
export const JOB_BITMAP_ROLES = ["job"] as const;
/** Objects: the key of an encrypted image, which QEMU needs while it opens that. */
export const OBJECT_ROLES = ["key"] as const;

/** What a job does, by the end of its name. */
export const JOB_ROLES = { copy: "", probe: ".again", look: ".look" } as const;
export type JobRole = keyof typeof JOB_ROLES;

/** What a mark says. */
export const MARKS = {
  lock: "qmpbackup-lock",
  paused: "qmpbackup-paused",
  frozen: "qmpbackup-frozen",
  /** The VM had the state io-error before the run. */
  ioError: "qmpbackup-io-error",
  nbdServer: "qmpbackup-nbd",
  /** The disks are half rolled back: it stays until a rollback is done. */
  rollback: "qmpbackup-rollback",
} as const;

/** A name as nodes have it. */
export function nodeName(tag: string, disk: number, role: NodeRole): string {
  return roleName(tag, disk, role);
}

export function exportId(tag: string, disk: number): string {
  return roleName(tag, disk, EXPORT_ROLES[0]);
}

/** The bitmap that tells a job what to copy. */
export function jobBitmapName(tag: string, disk: number): string {
  return roleName(tag, disk, JOB_BITMAP_ROLES[0]);
}

/** The key of a disk's image. */
export function objectId(tag: string, disk: number): string {
  return roleName(tag, disk, OBJECT_ROLES[0]);
}

function roleName(tag: string, disk: number, role: string): string {
  return `qmpbackup-${tag}-${disk}-${role}`;
}

export function jobId(tag: string, disk: string, role: JobRole): string {
  return `qmpbackup.${tag}.${disk}${JOB_ROLES[role]}`;
}

const ROLE_NAME = /^qmpbackup-([0-9a-f]{8})-\d+-([a-z]+)$/;
const JOB_ID = /^qmpbackup\.([0-9a-f]{8})\./;

/** Whether a run of ours made a node, an export or a job's bitmap of this name, in whatever role. */
export function isOurNode(name: string): boolean {
  return ROLE_NAME.test(name);
}

/** Whether a run of ours started a job of this id. */
export function isOurJob(id: string): boolean {
  return JOB_ID.test(id);
}

/** Whether a run of ours made an object of this id. */
export function isOurObject(id: string): boolean {
  return OBJECT_ROLES.some((role) => role === ROLE_NAME.exec(id)?.[2]);
}

/** What a node is for; null if this version makes no such node. */
export function nodeRole(name: string): NodeRole | null {
  const role = ROLE_NAME.exec(name)?.[2];
  return NODE_ROLES.find((known) => known === role) ?? null;
}

/** The node of the same run and disk that has another role. */
export function siblingNode(name: string, role: NodeRole): string {
  return name.slice(0, name.lastIndexOf("-") + 1) + role;
}

/** The tag of the run that made a node, an export or a job; null if none of ours did. */
export function tagIn(name: string): string | null {
  return (ROLE_NAME.exec(name) ?? JOB_ID.exec(name))?.[1] ?? null;
}

/**
 * Our nodes, in the order in which they can be removed. A node whose role is not known was made by another version:
 * it comes last but one, before the node that keeps a migration away.
 */
export function inRemovalOrder(nodes: string[]): string[] {
  const rank = (name: string) => {
    const role = nodeRole(name);
    return role === null ? NODE_ROLES.length - 1.5 : NODE_ROLES.indexOf(role);
  };
  return nodes.filter(isOurNode).toSorted((a, b) => rank(a) - rank(b));
}

const BITMAP_PREFIX = "qmpbackup-";

/**
 * The name of a backup's dirty bitmap: as the Python qmpbackup's, `qmpbackup-<disk>-<uuid>`, with the run in
 * the middle, so that each backup has its own.
 */
export function bitmapName(disk: string, runTag: string, chainId: string): string {
  return `${BITMAP_PREFIX}${disk}-${runTag}-${chainId}`;
}

/**
 * The end of a sentinel's name. The Python qmpbackup looks for a bitmap whose name ends in the chain's id, and
 * must not take a sentinel for that: no chain's id ends in a bracket.
 */
const SENTINEL_END = "(end)";

/** The name of the bitmap that tells whether a disk was cut: see `sentinel.ts`. */
export function sentinelName(disk: string, runTag: string, chainId: string): string {
  return bitmapName(disk, runTag, chainId) + SENTINEL_END;
}

/** Whether a bitmap can be a sentinel of ours. */
export function isSentinel(name: string): boolean {
  return name.startsWith(BITMAP_PREFIX) && name.endsWith(SENTINEL_END);
}

/**
 * Whether a bitmap is a backup's: ours, a sentinel too, or one of the Python qmpbackup
 * (`qmpbackup-<node>-<uuid>`, since 0.67 `qmpbackup-<uuid>`); of this chain if one is given.
 */
export function isBackupBitmap(name: string, chainId?: string): boolean {
  const ends = ["", SENTINEL_END].map((end) => `-${chainId}${end}`);
  return name.startsWith(BITMAP_PREFIX) && (!chainId || ends.some((end) => name.endsWith(end)));
}

/** Whether a bitmap was made for a backup by the run with this tag. */
export function isBitmapOfRun(name: string, runTag: string): boolean {
  return isBackupBitmap(name) && name.includes(`-${runTag}-`) && !isOurNode(name);
}

/** Whether a run of ours made a bitmap for a backup of this chain: the Python qmpbackup's have no run's tag. */
export function isOurBitmap(name: string, chainId: string): boolean {
  const head = name.slice(0, name.lastIndexOf(`-${chainId}`));
  return isBackupBitmap(name, chainId) && /-[0-9a-z]{8}$/.test(head);
}

/** What the Python qmpbackup may call a disk's bitmap: 0.47 by node or device, 0.67 by the chain. */
export function referenceBitmaps(disks: string[], chainId: string): string[] {
  return [...disks.map((disk) => `${BITMAP_PREFIX}${disk}-${chainId}`), BITMAP_PREFIX + chainId];
}
