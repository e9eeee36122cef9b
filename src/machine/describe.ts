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
  const cpus = await ask("query-cpus-fast", Cpus);
  // While two programs read of the process, QEMU is asked the rest.
  const process = readProcess(cpus[0]?.["thread-id"] ?? null, vm);
  const [{ arch }, memory, type, firmware, nics, disks] = await Promise.all([
    ask("query-target", v.object({ arch: v.string() })),
    ask("query-memory-size-summary", Memory),
    qomProperty(qmp, "/machine", "type"),
    qomProperty(qmp, "/machine", "firmware"),
    Promise.all(vm.devices.map((device) => nicAt(qmp, device))),
    Promise.all(vm.disks.map((disk) => diskAt(qmp, disk, vm.devices))),
  ]);
  return {
    arch,
    type: text(type).replace(/-machine$/, ""),
    firmware: text(firmware),
    memoryBytes: memory["base-memory"] + memory["plugged-memory"],
    processors: cpus.length,
    disks,
    nics: nics.flat(),
    tpms: vm.tpms,
    ...await process,
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
  const [bus, serial, bootIndex] = await Promise.all(
    ["parent_bus", "serial", "bootindex"].map((property) => qomProperty(qmp, path, property)),
  );
  return {
    disk: name,
    path,
    driver: devices.find((device) => device.path === path)?.type ??
      text(await qomProperty(qmp, path, "type")),
    bus: text(bus),
    serial: text(serial),
    bootIndex: place(bootIndex),
  };
}

const text = (value: unknown) => typeof value === "string" ? value : "";
/** QEMU says -1 where there is none. */
const place = (value: unknown) => typeof value === "number" && value >= 0 ? value : null;
