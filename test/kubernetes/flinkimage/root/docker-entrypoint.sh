#!/bin/bash
# What the entry point of Flink's own images does (docker-entrypoint.sh of apache/flink-docker), in other words:
#
#   jobmanager|standalone-job|taskmanager [ARGUMENT...]   one process of a cluster
#   anything else                                         is run as it is; native Kubernetes comes this way
#
# FLINK_PROPERTIES has lines "key: value" of configuration, JOB_MANAGER_RPC_ADDRESS and TASK_MANAGER_NUMBER_OF_TASK_SLOTS one each.
# Variables in the configuration are replaced by what they stand for.

config=$FLINK_HOME/conf/config.yaml

# A key that is there twice is an error to Flink 2, so the old line goes.
set_option() {
  local others
  others=$(awk -F: -v key="$1" '$1 != key' "$config")
  printf '%s\n%s: %s\n' "$others" "$1" "$2" >"$config"
}

prepare_configuration() {
  if [[ ! -w $config ]]; then
    echo "$config is not ours to change, as it is mounted: it is used as it is" >&2
    return
  fi
  set_option jobmanager.rpc.address "${JOB_MANAGER_RPC_ADDRESS:-$(hostname -f)}"
  set_option blob.server.port 6124
  set_option query.server.port 6125
  if [[ -n $TASK_MANAGER_NUMBER_OF_TASK_SLOTS ]]; then
    set_option taskmanager.numberOfTaskSlots "$TASK_MANAGER_NUMBER_OF_TASK_SLOTS"
  fi
  local line value
  while IFS= read -r line; do
    if [[ $line == *:* ]]; then
      value=${line#*:}
      set_option "${line%%:*}" "${value# }"
    fi
  done <<<"$FLINK_PROPERTIES"
  local replaced
  replaced=$(envsubst <"$config")
  printf '%s\n' "$replaced" >"$config"
}

command=$1
case $command in
jobmanager | standalone-job | taskmanager)
  prepare_configuration
  shift
  exec "$command.sh" start-foreground "$@"
  ;;
esac
exec "$@"
