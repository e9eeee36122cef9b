/**
 * What the files of each disk are called where all disks share a folder. Pure.
 *
 * @module
 */

import { diskFileName, sharedFileName as shared } from "../repo/layout.ts";
import type { Disk } from "../vm/disks.ts";

/**
 * The name of each disk's file. If two disks have files of the same name, the names of the disks are put before
 * it.
 */
export function fileNamesOf(disks: Disk[]): Map<Disk, string> {
  const plain = disks.map(({ source }) => diskFileName(source));
  const taken = new Set(plain);
  return new Map(disks.map((disk, index) => {
    const own = plain[index] as string;
    if (plain.indexOf(own) === plain.lastIndexOf(own)) return [disk, own];
    let name = shared(disk.name, own);
    // The file of another disk may have that name.
    for (let n = 2; taken.has(name); n++) name = shared(`${disk.name}.${n}`, own);
    taken.add(name);
    return [disk, name];
  }));
}
