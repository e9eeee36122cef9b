/**
 * Asks QEMU what the VM is.
 *
 * Source: QEMU QMP Reference Manual, "Machines" and "QOM".
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import * as v from "valibot";
import { Failure, messageOf } from "../errors.ts";
import type { QmpClient } from "../qmp/client.ts";
import { decodeAnswer, qomProperty } from "../qmp/queries.ts";
import type { Device } from "../vm/devices.ts";
import type { DiskDevice, Machine, Nic } from "./machine.ts";
import { readProcess } from "./process.ts";

const log = getLogger(["qmpbackup", "machine"]);

/** What is known of the VM already. */
export interface KnownVm {
  name: string;
  uuid: string;
  /** The path of its QMP socket; empty if it has none. */
  socket: string;
  disks: { name: string; id: string }[];
  tpms: string[];
  devices: Device[];
}

/** Describes the VM; null where QEMU can't say it, which must not keep the backup from being taken. */
export async function describeMachine(qmp: QmpClient, vm: KnownVm): Promise<Machine | null> {
  try {
    return await describe(qmp, vm);
  } catch (error) {
    if (!(error instanceof Failure) || !qmp.isOpen) throw error;
    log.warn("The VM's hardware can't be read, and is not in the record: {words}", {
      words: messageOf(error),
    });
    return null;
  }
}

const Cpus = v.array(v.object({ "thread-id": v.optional(v.number()) }));
const Memory = v.object({
  "base-memory": v.number(),
  "plugged-memory": v.optional(v.number(), 0),
});

async function describe(qmp: QmpClient, vm: KnownVm): Promise<Machine> {
  const ask = async <S extends v.GenericSchema>(command: string, schema: S) =>
    decodeAnswer(command, schema, await qmp.execute(command));
  const { arch } = await ask("query-target", v.object({ arch: v.string() }));
  const cpus = await ask("query-cpus-fast", Cpus);
  const memory = await ask("query-memory-size-summary", Memory);
  const type = await qomProperty(qmp, "/machine", "type");
  const nics: Nic[] = [];
  for (const device of vm.devices) nics.push(...await nicAt(qmp, device));
  const disks: DiskDevice[] = [];
  for (const disk of vm.disks) disks.push(await diskAt(qmp, disk, vm.devices));
  return {
    arch,
    type: text(type).replace(/-machine$/, ""),
    firmware: text(await qomProperty(qmp, "/machine", "firmware")),
    memoryBytes: memory["base-memory"] + memory["plugged-memory"],
    processors: cpus.length,
    disks,
    nics,
    tpms: vm.tpms,
    ...await readProcess(cpus[0]?.["thread-id"] ?? null, vm),
  };
}

async function nicAt(qmp: QmpClient, { path, type: driver }: Device): Promise<Nic[]> {
  const mac = text(await qomProperty(qmp, path, "mac"));
  if (mac === "") return [];
  const netdev = text(await qomProperty(qmp, path, "netdev"));
  return [{
    path,
    driver,
    mac,
    netdev,
    bootIndex: place(await qomProperty(qmp, path, "bootindex")),
  }];
}

/** What has the `drive` may be a part of the device (virtio): that is what a user names. */
async function diskAt(
  qmp: QmpClient,
  { name, id }: KnownVm["disks"][number],
  devices: Device[],
): Promise<DiskDevice> {
  const path = id.replace(/\/virtio-backend$/, "");
  return {
    disk: name,
    path,
    driver: devices.find((device) => device.path === path)?.type ??
      text(await qomProperty(qmp, path, "type")),
    bus: text(await qomProperty(qmp, path, "parent_bus")),
    serial: text(await qomProperty(qmp, path, "serial")),
    bootIndex: place(await qomProperty(qmp, path, "bootindex")),
  };
}

const text = (value: unknown) => typeof value === "string" ? value : "";
/** QEMU says -1 where there is none. */
const place = (value: unknown) => typeof value === "number" && value >= 0 ? value : null;
