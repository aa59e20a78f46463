#!/usr/bin/env bash
# Start a Slurm of one node, this machine, for the tests marked `slurm`. For a Debian container without systemd, as root:
#
#   apt-get install --no-install-recommends slurm-wlm munge slurmdbd mariadb-server
#   tests/clusters/slurm.sh && make test-slurm
#
# Accounting is on: without it submitit waits for ever for a job that has crashed.
set -euo pipefail

host=$(hostname -s)
cores=$(nproc)
memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)

mkdir -p /etc/slurm /run/munge /run/mysqld /var/log/slurm /var/spool/slurmctld /var/spool/slurmd
chown munge: /run/munge
chown mysql: /run/mysqld

cat >/etc/slurm/slurmdbd.conf <<END
AuthType=auth/munge
DbdHost=localhost
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
LogFile=/var/log/slurm/slurmdbd.log
PidFile=/run/slurmdbd.pid
END
chmod 600 /etc/slurm/slurmdbd.conf

cat >/etc/slurm/slurm.conf <<END
ClusterName=tests
SlurmctldHost=$host
SlurmUser=root
AuthType=auth/munge
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
JobAcctGatherType=jobacct_gather/linux
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
NodeName=$host CPUs=$cores RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
END

running() { pgrep -x "$1" >/dev/null; }
wait_for() { for _ in $(seq 60); do "$@" >/dev/null 2>&1 && return; sleep 0.5; done; echo "error: $* does not answer" >&2; exit 1; }

running munged || su -s /bin/sh munge -c munged
running mariadbd || (mariadbd-safe --user=mysql --skip-networking >/dev/null 2>&1 &)
wait_for mariadb -e 'SELECT 1'
running slurmdbd || slurmdbd
wait_for sacctmgr -n show cluster
sacctmgr -i add cluster tests >/dev/null 2>&1 || true
running slurmctld || slurmctld
running slurmd || slurmd
wait_for sinfo -h -t idle,mix,alloc
scontrol update nodename="$host" state=resume >/dev/null 2>&1 || true
wait_for srun -n 1 true
sinfo
