{{- define "sesrec.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "sesrec.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sesrec.labels" -}}
{{ include "sesrec.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "sesrec.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default (printf "%s%s" .Chart.AppVersion (ternary "-cuda" "" .Values.gpu.enabled)) }}
{{- end }}

{{- define "sesrec.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (ternary (include "sesrec.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{/* A duration such as 5s or 1m, in seconds. */}}
{{- define "sesrec.seconds" -}}
{{- if hasSuffix "ms" . }}1
{{- else if hasSuffix "s" . }}{{ trimSuffix "s" . }}
{{- else if hasSuffix "m" . }}{{ mul 60 (trimSuffix "m" . | int) }}
{{- else }}{{ fail (printf "settings: %q: write drain-notice and drain-timeout in s, ms or m" .) }}{{ end }}
{{- end }}

{{/* A probe that asks for a service: the empty name is whether the process answers. */}}
{{- define "sesrec.probe" -}}
{{- if eq .type "grpc" }}
grpc: {port: {{ .port }}, service: {{ .service | quote }}}
{{- else }}
exec:
  command: [/usr/local/bin/sesrec, health, "127.0.0.1:{{ .port }}", --service, {{ .service | quote }}, --timeout, 2s]
{{- end }}
{{- end }}
