/**
 * Which way each disk of a run is copied. A further way is a file of its own that keeps the contract
 * (`disk_copy.ts`), and a line here.
 *
 * @module
 */

import type { BlockErrors } from "../qmp/block_errors.ts";
import { ComparedCopy } from "./compared.ts";
import { DirectCopy, gathering, startJobs } from "./direct.ts";
import type { DiskCopy, Moment } from "./disk_copy.ts";
import type { RunSurroundings } from "./disk_work.ts";
import { FleecedCopy } from "./fleeced.ts";
import { switchToFilters } from "./snapshot.ts";

/** The disks of a run, in the plan's order, and how they are taken at one moment. */
export function chooseWays(
  run: RunSurroundings,
  errors: BlockErrors,
): { copies: DiskCopy[]; moment: Moment } {
  const { qmp, plan } = run;
  const { disks, nbdSocket } = plan;
  if (plan.direct) {
    const allEnded = gathering(disks.length);
    return {
      copies: disks.map((disk) => new DirectCopy(run, disk, errors, allEnded)),
      moment: startJobs(qmp, plan),
    };
  }
  const verifySocket = plan.request.verify ? nbdSocket : null;
  return {
    copies: disks.map((disk) =>
      // What is stored by comparing was compared: there is nothing to verify.
      disk.compare && disk.parent !== null && nbdSocket !== null
        ? new ComparedCopy(run, disk, disk.parent, nbdSocket)
        : new FleecedCopy(run, disk, errors, verifySocket)
    ),
    moment: switchToFilters(qmp),
  };
}
