#!/bin/sh
# A RAFT_LAUNCHER for a cluster: launch.sh JOB.json runs one fine-tuning in the pods that the suspended CronJob
# `train` describes (overlays/deepspeed), and ends with 0 if all of them did well.
#
# The Job ends with this script. Where this script is killed the Job lives on until the next attempt at the same
# iteration, which removes it first: two would write the same checkpoints.
set -eu
job=$1
name=train-$(dirname "$(dirname "$job")" | sha256sum | cut -c 1-16)

remove() {
    kubectl delete job "$name" --ignore-not-found --cascade=foreground "$@"
}

finish() {
    trap '' HUP INT TERM
    remove --wait=false
}

remove --timeout=5m
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' HUP TERM
kubectl create job "$name" --from=cronjob/train --dry-run=client --output=json |
    kubectl set env --local --filename=- --output=json "RAFT_JOB=$job" |
    kubectl create --filename=-
while :; do
    sleep 5 &
    wait $!
    # A server that is away for a while does not end the training.
    state=$(kubectl get job "$name" --ignore-not-found \
        --output='jsonpath={.metadata.name} {.status.conditions[?(@.status=="True")].type}') || continue
    case $state in
        *Complete*) exit 0 ;;
        *Failed*)
            kubectl logs --selector="batch.kubernetes.io/job-name=$name" --prefix --tail=50 >&2 || true
            exit 1
            ;;
        '')
            echo "somebody removed the Job $name" >&2
            exit 1
            ;;
    esac
done
