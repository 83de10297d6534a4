# Makes the RayJob $JOB_NAME, owned by the Job $JOB_UID, unless it is there, and waits for its end.
# Exit code 0 when it succeeded; 1 with its message when it failed, or when it is gone.
set -eu

owner="{apiVersion: batch/v1, kind: Job, name: $JOB_NAME, uid: $JOB_UID}"
if [ -z "$(kubectl get rayjob "$JOB_NAME" --ignore-not-found --output name)" ]; then
    sed "s|^  generateName: .*|  name: $JOB_NAME\n  ownerReferences: [$owner]|" /etc/dxmc/rayjob.yaml |
        kubectl create --filename -
fi

while status=$(kubectl get rayjob "$JOB_NAME" --output \
    'jsonpath={.status.jobDeploymentStatus} {.status.jobStatus} {.status.message}'); do
    case "$status" in
        "Complete SUCCEEDED"*) echo "$JOB_NAME succeeded" && exit 0 ;;
        Complete* | Failed*) echo "$JOB_NAME failed: $status" >&2 && exit 1 ;;
    esac
    sleep "${POLL_S:-30}"
done
echo "$JOB_NAME cannot be read any more" >&2
exit 1
