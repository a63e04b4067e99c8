#!/bin/bash
# A real Slurm on this host, for trying gpubench submit: cluster.sh start | stop. Needs root and Debian's slurm-wlm and munge.
# It writes /etc/slurm/slurm.conf and gres.conf: only for hosts that are no part of a cluster. GPUs are stand-ins (terminals).
set -eu
host=$(hostname -s)
case "${1:-}" in
start)
    mkdir -p /etc/slurm /var/spool/slurmctld /var/spool/slurmd /run/munge
    chown slurm /var/spool/slurmctld
    chown munge /run/munge
    cat > /etc/slurm/slurm.conf <<CONF
ClusterName=t
SlurmctldHost=$host(127.0.0.1)
AuthType=auth/munge
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
ReturnToService=2
KillWait=60
MinJobAge=3600
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 Gres=gpu:8 State=UNKNOWN
PartitionName=gpu Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
    echo "NodeName=$host Name=gpu File=/dev/tty[10-17]" > /etc/slurm/gres.conf
    runuser -u munge -- /usr/sbin/munged
    slurmctld
    slurmd
    for _ in $(seq 20); do
        if [ "$(sinfo --noheader --format=%t 2> /dev/null)" = idle ]; then break; fi
        sleep 1
    done
    sinfo
    ;;
stop)
    for name in slurmd slurmctld; do
        if [ -s /run/$name.pid ]; then kill "$(cat /run/$name.pid)" || true; fi
    done
    if [ -s /run/munge/munged.pid ]; then kill "$(cat /run/munge/munged.pid)" || true; fi
    ;;
*)
    echo "cluster.sh start | stop" >&2
    exit 2
    ;;
esac
