package qupath.bioimageio.spec;

import java.io.IOException;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** Stands in for QuPath's class. The number of iterations is what the folder's name ends with. */
public class Model {
    private final Path folder;

    private Model(Path folder) {
        this.folder = folder;
    }

    public static Model parse(Path path) throws IOException {
        if (!Files.isDirectory(path)) {
            throw new IOException("Can't find rdf.yaml from " + path);
        }
        return new Model(path);
    }

    public URI getBaseURI() {
        return folder.toUri();
    }

    public Map<?, ?> getConfig() {
        String name = folder.getFileName().toString();
        if (!name.contains("_")) {
            return Map.of();
        }
        double iterations = Double.parseDouble(name.substring(name.lastIndexOf('_') + 1));
        List<String> channels = new ArrayList<>();
        for (int k = 1; k <= iterations; k++) {
            channels.add("iteration_" + k);
        }
        // QuPath reads every number as a double.
        return Map.of("dcbmz", Map.of("step_optical_depth", 0.5, "iterations", iterations,
                "channels", channels, "halo_px", 3.0));
    }
}
