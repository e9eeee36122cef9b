/**
 * The systemd units, one instance a VM. Pure.
 *
 * Source: systemd.service(5), systemd.exec(5), systemd.kill(5), systemd.timer(5).
 *
 * @module
 */

/** A file of the system. */
export interface SystemFile {
  /** Absolute. */
  path: string;
  text: string;
}

/** What both services may not do, but for the folders that they may write to. */
const CONFINEMENT =
  `# QEMU and qmpbackup must find the same file under a path, so nothing is hidden: no PrivateTmp=, no
# other ProtectHome=, no PrivateDevices=.
PrivateTmp=no
ProtectHome=read-only
DevicePolicy=closed

# To write to folders and sockets of other users, as root. No other right of root's.
CapabilityBoundingSet=CAP_DAC_OVERRIDE
NoNewPrivileges=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
# The JavaScript engine makes machine code as it runs.
MemoryDenyWriteExecute=no
LockPersonality=yes
KeyringMode=private
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProcSubset=pid
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
`;

const SERVICE = `[Unit]
Description=Backup of the virtual machine %i
Documentation=man:qmpbackup(1)
# Not into an empty mount point.
RequiresMountsFor=/backup

[Service]
Type=oneshot
EnvironmentFile=/etc/qmpbackup/%i.env
# The braces keep a value one word, without them it is split at spaces. What comes last wins.
ExecStart=/usr/local/bin/qmpbackup backup --level auto --socket \${QMPBACKUP_SOCKET} --target \${QMPBACKUP_TARGET} $QMPBACKUP_OPTIONS
# Any exit code but 0 makes the unit fail: 3 means warnings, under --strict; 11 means that another
# run is at work. The next run cleans up after this one, so there is nothing to restart.
Restart=no
TimeoutStartSec=infinity
# SIGTERM: everything is undone, which may wait for QEMU at each step; then --after runs.
KillSignal=SIGTERM
TimeoutStopSec=10min
# To all processes, SIGKILL only after the time-out. If qmpbackup is killed while it holds the guest, its
# second process lets the guest go on. That one ignores SIGTERM and needs a minute at most; "mixed" would
# kill it at once.
KillMode=control-group
# New files get the rights of --mode at once: root without CAP_FSETID loses a folder's set-group-ID
# bit by changing its mode afterwards. Files of hooks are not for others.
UMask=0007
# No Nice=: for some milliseconds the guest may have to wait for us.

# If QEMU does not run as root, run as its user: it must open the images that are made here.
#User=libvirt-qemu

# What may be written: targets, metrics, and the disks' folders (the old data of what the guest overwrites
# is kept beside the disk during the backup). For others: systemctl edit qmpbackup@VM, ReadWritePaths=/other/folder
ProtectSystem=strict
ReadWritePaths=-/backup -/var/lib/libvirt/images -/var/lib/prometheus/node-exporter

${CONFINEMENT}`;

const TIMER = `[Unit]
Description=Nightly backup of the virtual machine %i

[Timer]
OnCalendar=daily
# Not all VMs of all hosts at midnight.
RandomizedDelaySec=1h
# Make up for a night that was missed.
Persistent=true

[Install]
WantedBy=timers.target
`;

const VERIFY_SERVICE = `[Unit]
Description=Check of the backups of the virtual machine %i
Documentation=man:qmpbackup(1)
RequiresMountsFor=/backup

[Service]
Type=oneshot
EnvironmentFile=/etc/qmpbackup/%i.env
ExecStart=/usr/local/bin/qmpbackup restore verify --dir \${QMPBACKUP_TARGET} $QMPBACKUP_VERIFY_OPTIONS
# Any exit code but 0 makes the unit fail: the log names each backup that is damaged.
Restart=no
TimeoutStartSec=infinity
UMask=0007
# No guest waits for this.
Nice=19

# As in qmpbackup@.service: the user that owns the backups.
#User=libvirt-qemu

# What may be written: the results, beside the backups, and metrics. For other targets:
# systemctl edit qmpbackup-verify@VM, ReadWritePaths=/other/folder
ProtectSystem=strict
ReadWritePaths=-/backup -/var/lib/prometheus/node-exporter

${CONFINEMENT}`;

const VERIFY_TIMER = `[Unit]
Description=Weekly check of the backups of the virtual machine %i

[Timer]
# After the night's backup.
OnCalendar=Sun 04:00
RandomizedDelaySec=1h
Persistent=true

[Install]
WantedBy=timers.target
`;

const ENVIRONMENT = `# For qmpbackup@vm1: name the file as the VM.
# The VM's QMP socket: a path, or tcp:HOST:PORT
QMPBACKUP_SOCKET=/run/vm1.qmp
# Below what qmpbackup@.service may write to
QMPBACKUP_TARGET=/backup/vm1
# More flags of "qmpbackup backup", with spaces between them. Raw disks are left out, with a warning,
# unless --include-raw is among them; --exclude NAME leaves a disk out without one. With --strict a
# warning makes the unit fail (exit code 3). With --keep flags, such as --keep-daily 14 --keep-weekly 8,
# old backups are removed after each good run: see "qmpbackup help retention".
QMPBACKUP_OPTIONS=
# Encrypted backups ("qmpbackup help encryption"): --encrypt among the options, and the key by
# "systemctl edit qmpbackup@vm1 qmpbackup-verify@vm1" with these two lines for each:
#   [Service]
#   LoadCredential=qmpbackup-key:/etc/qmpbackup/key
# With node_exporter's textfile collector:
#QMPBACKUP_OPTIONS=--metrics-file /var/lib/prometheus/node-exporter/qmpbackup_vm1.prom
# Flags of "qmpbackup restore verify", for qmpbackup-verify@vm1.timer. Every week it reads another
# quarter, so that four weeks read everything. Not 1/7: each Sunday would read the same share.
QMPBACKUP_VERIFY_OPTIONS=--subset 1/4
`;

/** The services, their timers, and an example of what configures an instance. */
export const UNITS: readonly SystemFile[] = [
  { path: "/etc/systemd/system/qmpbackup@.service", text: SERVICE },
  { path: "/etc/systemd/system/qmpbackup@.timer", text: TIMER },
  { path: "/etc/qmpbackup/vm1.env.example", text: ENVIRONMENT },
  { path: "/etc/systemd/system/qmpbackup-verify@.service", text: VERIFY_SERVICE },
  { path: "/etc/systemd/system/qmpbackup-verify@.timer", text: VERIFY_TIMER },
];

/** All in one text, each file headed by its path. */
export function unitsText(): string {
  return UNITS.map(({ path, text }) => `# ${path}\n${text}`).join("\n");
}
