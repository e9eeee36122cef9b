/**
 * A guest that really writes: 512 bytes of machine code that run bare on the BIOS.
 *
 * It counts c = 1, 2, 3… for ever and writes each c first to a slot on disk A (drive 0x80), then to
 * the same slot on disk B (drive 0x81). So of any two copies of A and B it can be told whether they
 * are one single point in time, and whether a write is missing: {@linkcode decodeWriterState}.
 * Unlike {@linkcode Vm.write}, QMP `stop` does stop it.
 *
 * @example
 * ```ts
 * await installWriterGuest(dir.join("a.qcow2"), "qcow2");
 * await using vm = await startVm({
 *   dir: dir.path,
 *   disks: [{ …, bootIndex: 0 }, { …, bootIndex: 1 }],
 *   running: true,
 *   qemuArgs: WRITER_QEMU_ARGS,
 * });
 * await untilWritten(vm, "vdb", 100);
 * ```
 */

import { type ImageFormat, qemuIo } from "./qemu_img.ts";
import type { Vm } from "./vm.ts";

/**
 * How many slots the guest goes round in, unless told otherwise.
 *
 * A thousand writes a second go round these in some 60 ms, and then all are new: right for two
 * copies of one moment. To find a write that slipped through between two backups take so many that
 * the guest does not come round in between.
 */
export const SLOTS = 64;

const SECTOR = 512;
const FIRST_SLOT = 64 * SECTOR;
/** One cluster of qcow2 for each slot. */
const SLOT = 128 * SECTOR;

/** What each of the two disks must have at least. */
export function writerDiskBytes(slots = SLOTS): number {
  return FIRST_SLOT + slots * SLOT;
}

/** With these a failed write pauses the VM as `guest-panicked`; without, the guest just halts. */
export const WRITER_QEMU_ARGS = ["-device", "pvpanic", "-action", "panic=pause"];

/** Where in the code the number of slots stands. */
const SLOTS_AT = 0x29;

// deno-fmt-ignore
const CODE = [
  // start:                                  The BIOS jumps here, to 0000:7c00, in real mode
  0xfa,                                   // cli
  0x31, 0xc0,                             // xor  ax, ax
  0x8e, 0xd8,                             // mov  ds, ax
  0x8e, 0xc0,                             // mov  es, ax
  0x8e, 0xd0,                             // mov  ss, ax
  0xbc, 0x00, 0x7c,                       // mov  sp, 0x7c00
  0xfb,                                   // sti
  0xfc,                                   // cld
  // next: (7c0e)                            Fill the buffer at 0000:8000 with the next number
  0x66, 0xff, 0x06, 0x5e, 0x7c,           // inc  dword [counter]
  0x66, 0xa1, 0x5e, 0x7c,                 // mov  eax, [counter]
  0xbf, 0x00, 0x80,                       // mov  di, 0x8000
  0xb9, 0x80, 0x00,                       // mov  cx, 128
  0xf3, 0x66, 0xab,                       // rep stosd
  //                                         Its place: sector 64 + (counter mod SLOTS) * 128
  0x66, 0xa1, 0x5e, 0x7c,                 // mov  eax, [counter]
  0x66, 0x31, 0xd2,                       // xor  edx, edx
  0x66, 0xb9, 0x00, 0x00, 0x00, 0x00,     // mov  ecx, SLOTS       filled in later
  0x66, 0xf7, 0xf1,                       // div  ecx
  0x66, 0xc1, 0xe2, 0x07,                 // shl  edx, 7
  0x66, 0x83, 0xc2, 0x40,                 // add  edx, 64
  0x66, 0x89, 0x16, 0x6a, 0x7c,           // mov  [lba], edx
  //                                         A, then B
  0xb2, 0x80,                             // mov  dl, 0x80
  0xe8, 0x07, 0x00,                       // call write
  0xb2, 0x81,                             // mov  dl, 0x81
  0xe8, 0x02, 0x00,                       // call write
  0xeb, 0xc5,                             // jmp  next
  // write: (7c49)
  0xbe, 0x62, 0x7c,                       // mov  si, packet
  0xb8, 0x00, 0x43,                       // mov  ax, 0x4300      extended write, no verify
  0xcd, 0x13,                             // int  0x13
  0x72, 0x01,                             // jc   failed
  0xc3,                                   // ret
  // failed: (7c54)                          Tell pvpanic, and write nothing more
  0xba, 0x05, 0x05,                       // mov  dx, 0x505
  0xb0, 0x01,                             // mov  al, 1
  0xee,                                   // out  dx, al
  // halt: (7c5a)
  0xfa,                                   // cli
  0xf4,                                   // hlt
  0xeb, 0xfc,                             // jmp  halt
  // counter: (7c5e)
  0x00, 0x00, 0x00, 0x00,                 // dd   0
  // packet: (7c62)
  0x10, 0x00,                             // db   16, 0           its own size
  0x01, 0x00,                             // dw   1               sectors
  0x00, 0x80, 0x00, 0x00,                 // dw   0x8000, 0       buffer: offset, segment
  // lba: (7c6a)
  0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // dq 0
];

/** Puts the guest into the first sector of disk A, before QEMU opens the image. */
export async function installWriterGuest(
  imagePath: string,
  format: ImageFormat,
  slots = SLOTS,
): Promise<void> {
  const sector = new Uint8Array(SECTOR);
  sector.set(CODE);
  new DataView(sector.buffer).setUint32(SLOTS_AT, slots, true);
  sector.set([0x55, 0xaa], SECTOR - 2);
  const source = `${imagePath}.boot`;
  await Deno.writeFile(source, sector);
  try {
    await qemuIo(imagePath, format, `write -s ${source} 0 ${SECTOR}`);
  } finally {
    await Deno.remove(source);
  }
}

/**
 * Waits until the guest has written `count` numbers more to a disk.
 *
 * @throws {Error} If one of its writes failed, or if it takes over a minute.
 */
export async function untilWritten(vm: Vm, diskId: string, count: number): Promise<void> {
  const giveUp = Date.now() + 180_000;
  const goal = await writesSoFar(vm, diskId) + count;
  while (await writesSoFar(vm, diskId) < goal) {
    if (vm.events.some(({ event }) => event === "GUEST_PANICKED")) {
      throw new Error("A write of the guest failed");
    }
    if (Date.now() > giveUp) throw new Error(`The guest did not write ${count} numbers`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

async function writesSoFar(vm: Vm, diskId: string): Promise<number> {
  const all = await vm.execute("query-blockstats") as {
    qdev?: string;
    stats: { wr_operations: number };
  }[];
  const disk = all.find(({ qdev }) => qdev === `/machine/peripheral/${diskId}/virtio-backend`);
  if (!disk) throw new Error(`The VM has no disk "${diskId}"`);
  return disk.stats.wr_operations;
}

/** What {@linkcode decodeWriterState} found. */
export interface WriterState {
  /** Whether the guest ever left both disks like this at one moment. */
  consistent: boolean;
  /** The last number on A, 0 if none. */
  counterA: number;
  /** The last number on B, 0 if none. */
  counterB: number;
  /** What speaks against it. */
  problem?: string;
}

/**
 * Tells whether raw copies of both disks are what was there after some write of the guest.
 *
 * With a, the largest number on A, every slot of A must hold the last number up to a that belongs
 * there; likewise with b on B; and as A is written first, a is b or b + 1. Any write that is
 * missing, torn or from another moment breaks this, unless the guest has since gone round all slots.
 */
export function decodeWriterState(
  rawPathA: string,
  rawPathB: string,
  slots = SLOTS,
): WriterState {
  const a = readDisk("A", rawPathA, slots);
  const b = readDisk("B", rawPathB, slots);
  const ahead = a.counter - b.counter;
  const problem = a.problem ?? b.problem ??
    (ahead === 0 || ahead === 1 ? undefined : `A is at ${a.counter}, B at ${b.counter}`);
  return {
    consistent: problem === undefined,
    counterA: a.counter,
    counterB: b.counter,
    ...(problem === undefined ? {} : { problem }),
  };
}

function readDisk(disk: string, path: string, slots: number) {
  const sectors: Uint32Array[] = [];
  using file = Deno.openSync(path);
  for (let slot = 0; slot < slots; slot++) sectors.push(readSlot(file, slot));

  const numbers = sectors.map((words) => words[0] ?? 0);
  const counter = Math.max(...numbers);
  const torn = sectors.findIndex((words) => words.some((word) => word !== words[0]));
  if (torn >= 0) return { counter, problem: `${disk}: slot ${torn} is torn` };
  for (const [slot, number] of numbers.entries()) {
    const expected = counter < slot ? 0 : counter - (counter - slot) % slots;
    if (number !== expected) {
      const problem = `${disk}: slot ${slot} holds ${number}, at ${counter} it's ${expected}`;
      return { counter, problem };
    }
  }
  return { counter };
}

function readSlot(file: Deno.FsFile, slot: number): Uint32Array {
  const bytes = new Uint8Array(SECTOR);
  file.seekSync(FIRST_SLOT + slot * SLOT, Deno.SeekMode.Start);
  for (let got = 0; got < SECTOR;) {
    const n = file.readSync(bytes.subarray(got));
    if (n === null) throw new Error(`The copy ends before slot ${slot}`);
    got += n;
  }
  const view = new DataView(bytes.buffer);
  return Uint32Array.from({ length: SECTOR / 4 }, (_, index) => view.getUint32(4 * index, true));
}
