#!/bin/sh
# A RAFT_LAUNCHER for a cluster: launch.sh JOB.json runs one fine-tuning in the pods that the suspended CronJob
# `train` describes (overlays/deepspeed), and exits with 0 if all of them succeed.
#
# The Job ends with this script. If the script is killed, the Job continues until the next attempt at the same
# iteration removes it: two Jobs would write the same checkpoints.
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
    # A temporary outage of the API server does not end the training.
    state=$(kubectl get job "$name" --ignore-not-found \
        --output='jsonpath={.metadata.name} {.status.conditions[?(@.status=="True")].type}') || continue
    case $state in
        *Complete*) exit 0 ;;
        *Failed*)
            kubectl logs --selector="batch.kubernetes.io/job-name=$name" --prefix --tail=50 >&2 || true
            exit 1
            ;;
        '')
            echo "the Job $name was deleted while it was running" >&2
            exit 1
            ;;
    esac
done
