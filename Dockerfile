# The command line on a CPU:
#   docker build -t dcbmz .
#   docker run --rm -v "$PWD:/data" dcbmz predict deepcontrast my_stack.tif -o enhanced.tif
FROM python:3.12-slim
# The index of torch's CPU builds can be given, to leave CUDA out: --build-arg TORCH_INDEX=URL
ARG TORCH_INDEX=""
COPY . /source
RUN if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir --index-url "$TORCH_INDEX" "torch>=2.6,<2.16"; fi \
    && pip install --no-cache-dir /source \
    && useradd --create-home --uid 1000 dcbmz
# By its number, which every host knows.
USER 1000
WORKDIR /data
ENTRYPOINT ["dcbmz"]
CMD ["--help"]
