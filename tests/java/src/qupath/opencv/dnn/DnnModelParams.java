package qupath.opencv.dnn;

import java.net.URI;
import java.util.List;

/** Stands in for QuPath's class. */
public class DnnModelParams {
    private final List<URI> uris;

    private DnnModelParams(List<URI> uris) {
        this.uris = uris;
    }

    public static Builder builder() {
        return new Builder();
    }

    public List<URI> getURIs() {
        return uris;
    }

    /** Stands in for QuPath's class. */
    public static class Builder {
        private List<URI> uris = List.of();

        private Builder() {}

        public Builder URIs(URI... given) {
            uris = List.of(given);
            return this;
        }

        public DnnModelParams build() {
            return new DnnModelParams(uris);
        }
    }
}
