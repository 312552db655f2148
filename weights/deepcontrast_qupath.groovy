// DeepContrast in QuPath 0.6 and 0.7: run the model on a region and turn the dial.
//
// Install the extensions "Deep Java Library" (with PyTorch) and "Bioimage Model Zoo", unpack the
// package, open an image, select a rectangle or another annotation (without one the whole image is
// taken), open this file in Automate > Script editor, fill in the settings and press Run.
//
// From a command line, in the order of the settings:
//   QuPath script -i IMAGE -a FOLDER -a RESULT.tif -a 1.7 -a 1 deepcontrast_qupath.groovy
//
// The result is a 32-bit TIFF for ImageJ, in the grey values of the image, with its pixel size and,
// as origin, its place in the image. The script cuts the region into parts that have real neighbours
// around them; at the border of the image the network itself mirrors them, so that every pixel has
// the value that other programs give. QuPath's pixel classifier repeats the edge pixel instead.

import groovy.transform.Field
import ij.IJ
import ij.ImagePlus
import ij.ImageStack
import ij.process.FloatProcessor
import java.awt.GraphicsEnvironment
import java.awt.image.BufferedImage
import java.nio.file.Files
import java.nio.file.Path
import qupath.bioimageio.spec.Model
import qupath.imagej.tools.IJTools
import qupath.lib.regions.Padding
import qupath.lib.regions.RegionRequest
import qupath.lib.scripting.QP
import qupath.opencv.dnn.DnnModel
import qupath.opencv.dnn.DnnModelBuilder
import qupath.opencv.dnn.DnnModels
import qupath.opencv.ml.BioimageIoTools
import qupath.opencv.ml.PatchClassifierParams

// -------------------------------------------------------------------------------- settings

// Folder of the unpacked package.
@Field String MODEL = ''
// TIFF to write; left empty, the result is shown in a window of ImageJ.
@Field String OUTPUT = ''
// Optical depth to remove: 0 is the raw image, one iteration removes one step; 'all' gives every
// iteration as a channel.
@Field String DIAL = '1'
// Channel of the image, from 1.
@Field int CHANNEL = 1
// Width and height of the parts that the network sees at once, without their neighbours.
@Field int PART = 1024

if (binding.hasVariable('args') && args) {
    def given = args as List
    MODEL = given[0]
    OUTPUT = given.size() > 1 ? given[1] : OUTPUT
    DIAL = given.size() > 2 ? given[2] : DIAL
    CHANNEL = given.size() > 3 ? given[3] as int : CHANNEL
    PART = given.size() > 4 ? given[4] as int : PART
}

// ------------------------------------------------------------------------------ arithmetic

/** Returns k and alpha: the dial lies between iterations k and k + 1, at weight alpha. */
static List<Number> dialPosition(double dial, double step, int iterations) {
    double largest = iterations * step
    if (!(dial >= 0 && dial <= largest * (1 + 1e-9))) {
        throw new IllegalArgumentException("The dial ${dial} is not between 0 and ${largest} "
            + "(${iterations} iterations of ${step}): choose a value in between.")
    }
    int whole = Math.min((int) Math.floor(dial / step + 1e-9d), iterations)
    double rest = Math.max(dial - whole * step, 0d)
    if (whole == iterations || rest <= 1e-9d * step) {
        return [whole, 0d]
    }
    return [whole, Math.expm1(rest) / Math.expm1(step)]
}

/** Returns x_k + alpha (x_(k+1) - x_k), where x_0 is the raw image. */
static float[] blend(float[] raw, List<float[]> iterations, double dial, double step) {
    def (Integer k, Double alpha) = dialPosition(dial, step, iterations.size())
    float[] below = k == 0 ? raw : iterations[k - 1]
    if (alpha == 0d) {
        return below.clone()
    }
    float[] above = iterations[k]
    float[] result = new float[below.length]
    double weight = alpha
    for (int i = 0; i < result.length; i++) {
        result[i] = (float) (below[i] + weight * (above[i] - below[i]))
    }
    return result
}

// --------------------------------------------------------------------------------- network

/**
 * Returns the network of a package, run by PyTorch.
 *
 * The extension registers its builder, and forbids downloads during a run, only together with the
 * window of QuPath: without one, the same is done here, once in a session.
 */
static DnnModel openNetwork(Model model, String folder) {
    if (System.getProperty('deepcontrast.builder') == null) {
        for (name in ['ai.djl.offline', 'OPT_OUT_TRACKING']) {
            System.setProperty(name, System.getProperty(name, 'true'))
        }
        def loader = Thread.currentThread().getContextClassLoader()
        try {
            def builder = Class.forName('qupath.ext.djl.DjlDnnModelBuilder', true, loader)
            DnnModels.registerBuilder(builder.getDeclaredConstructor().newInstance() as DnnModelBuilder)
            System.setProperty('deepcontrast.builder', 'registered')
        } catch (ClassNotFoundException elsewhere) {
            // Either the window has registered it already, or the extension is missing.
        }
    }
    def network = BioimageIoTools.buildDnnModel(model)
    if (network == null) {
        throw new IllegalArgumentException("PyTorch could not open the weights in ${folder}: install the "
            + 'extension Deep Java Library with Extensions > Manage extensions, and PyTorch with '
            + 'Extensions > Deep Java Library > Manage DJL engines.')
    }
    return network
}

/**
 * Returns where a window begins that holds a part and, inside the image, its halo.
 *
 * All windows have one size, so that PyTorch prepares itself once; at the border of the image they
 * end with the image.
 */
static int windowStart(int part, int halo, int window, int image) {
    return Math.max(Math.min(part - halo, image - window), 0)
}

/** Returns the values of one channel in a part of an image. */
static float[] values(BufferedImage image, int channel, int x, int y, int width, int height) {
    return image.getRaster().getSamples(x, y, width, height, channel, (float[]) null)
}

// ---------------------------------------------------------------------------------- region

def imageData = QP.getCurrentImageData()
if (imageData == null) {
    throw new IllegalArgumentException('There is no image: open one first.')
}
if (!MODEL || !Files.isDirectory(Path.of(MODEL))) {
    throw new IllegalArgumentException("The setting MODEL, '${MODEL}', is not a folder: unpack the "
        + 'package and give its folder.')
}
if (!OUTPUT && GraphicsEnvironment.isHeadless()) {
    throw new IllegalArgumentException('The result cannot be shown without a screen: name a TIFF as OUTPUT.')
}
def server = imageData.getServer()
if (server.isRGB()) {
    throw new IllegalArgumentException('The image is RGB: give an image of grey values, such as '
        + 'fluorescence.')
}
if (CHANNEL < 1 || CHANNEL > server.nChannels()) {
    throw new IllegalArgumentException("The image has channels 1 to ${server.nChannels()}, not "
        + "${CHANNEL}: correct the setting CHANNEL.")
}
def roi = QP.getSelectedROI()
int left = roi == null ? 0 : Math.max(Math.floor(roi.getBoundsX()) as int, 0)
int top = roi == null ? 0 : Math.max(Math.floor(roi.getBoundsY()) as int, 0)
int right = roi == null ? server.getWidth()
    : Math.min(Math.ceil(roi.getBoundsX() + roi.getBoundsWidth()) as int, server.getWidth())
int bottom = roi == null ? server.getHeight()
    : Math.min(Math.ceil(roi.getBoundsY() + roi.getBoundsHeight()) as int, server.getHeight())
int z = roi == null ? 0 : roi.getZ()
int t = roi == null ? 0 : roi.getT()
int width = right - left
int height = bottom - top
if (width <= 0 || height <= 0) {
    throw new IllegalArgumentException('The selected region lies outside the image: select another.')
}
if ((long) width * height > Integer.MAX_VALUE - 8) {
    throw new IllegalArgumentException("The region has ${width} x ${height} pixels, and ImageJ opens "
        + 'at most 2147483639: select a smaller one.')
}

// ----------------------------------------------------------------------------------- model

def model = Model.parse(Path.of(MODEL))
def own = model.getConfig()?.get('dcbmz')
if (own == null) {
    throw new IllegalArgumentException("The package ${MODEL} was not made by dcbmz export: give one "
        + 'that was as MODEL.')
}
double step = own.get('step_optical_depth') as double
int count = own.get('iterations') as int
int halo = own.get('halo_px') as int
List<String> names = own.get('channels') as List
if (DIAL != 'all') {
    if (!DIAL.isDouble()) {
        throw new IllegalArgumentException("The dial '${DIAL}' is neither a number nor 'all': correct "
            + 'the setting DIAL.')
    }
    dialPosition(DIAL as double, step, count)
}

// One window of the image, halo included, is one run of the network: QuPath adds no border.
int windowWidth = Math.min(Math.min(width, PART) + 2 * halo, server.getWidth())
int windowHeight = Math.min(Math.min(height, PART) + 2 * halo, server.getHeight())
def params = PatchClassifierParams.builder()
    .inputChannels(CHANNEL - 1)
    .inputResolution(server.getPixelCalibration(), 1.0d)
    .patchSize(windowWidth, windowHeight)
    .halo(0)
    .prediction(openNetwork(model, MODEL), Padding.empty())
    .outputClassNames(names as String[])
    .build()
def classifier = PatchClassifierParams.buildPixelClassifier(params)

def planes = (1..(DIAL == 'all' ? names.size() : 1)).collect { new float[width * height] }
int columns = (width + PART - 1).intdiv(PART)
int rows = (height + PART - 1).intdiv(PART)
for (int part = 0; part < rows * columns; part++) {
    int x = left + (part % columns) * PART
    int y = top + part.intdiv(columns) * PART
    int w = Math.min(PART, right - x)
    int h = Math.min(PART, bottom - y)
    int windowX = windowStart(x, halo, windowWidth, server.getWidth())
    int windowY = windowStart(y, halo, windowHeight, server.getHeight())
    def window = RegionRequest.createInstance(
        server.getPath(), 1.0d, windowX, windowY, windowWidth, windowHeight, z, t)
    def enhanced = classifier.applyClassification(imageData, window)
    int found = enhanced.getRaster().getNumBands()
    if (found != names.size() || enhanced.getWidth() != windowWidth || enhanced.getHeight() != windowHeight) {
        throw new IllegalArgumentException("QuPath gave ${found} channels of ${enhanced.getWidth()} x "
            + "${enhanced.getHeight()} pixels instead of ${names.size()} of ${windowWidth} x "
            + "${windowHeight}: report it.")
    }
    def made = names.indices.collect { values(enhanced, it, x - windowX, y - windowY, w, h) }
    if (DIAL != 'all') {
        def raw = server.readRegion(RegionRequest.createInstance(server.getPath(), 1.0d, x, y, w, h, z, t))
        made = [blend(values(raw, CHANNEL - 1, 0, 0, w, h), made[0..<count], DIAL as double, step)]
    }
    made.eachWithIndex { float[] plane, int k ->
        for (int row = 0; row < h; row++) {
            System.arraycopy(plane, row * w, planes[k], (y - top + row) * width + x - left, w)
        }
    }
    if (rows * columns > 1) {
        println("part ${part + 1} of ${rows * columns}")
    }
}

// ---------------------------------------------------------------------------------- result

def stack = new ImageStack(width, height)
planes.eachWithIndex { plane, k ->
    def label = DIAL == 'all' ? names[k] : "dial_${DIAL}".toString()
    stack.addSlice(label, new FloatProcessor(width, height, plane))
}
def result = new ImagePlus("deepcontrast_dial_${DIAL}".toString(), stack)
result.setDimensions(stack.getSize(), 1, 1)
def region = RegionRequest.createInstance(server.getPath(), 1.0d, left, top, width, height, z, t)
IJTools.calibrateImagePlus(result, region, server)
if (Double.isNaN(result.getCalibration().pixelDepth)) {
    // Of a single plane QuPath knows no distance between planes.
    result.getCalibration().pixelDepth = 1
}
def told = "DeepContrast, dial ${DIAL}, step ${step}, region ${left}, ${top}, ${width} x ${height}"
result.setProperty('Info', "${told}, z ${z}, t ${t}, channel ${CHANNEL}".toString())
result.resetDisplayRange()
if (OUTPUT) {
    if (!IJ.saveAsTiff(result, OUTPUT)) {
        throw new IllegalArgumentException("The result could not be saved as ${OUTPUT}: name another place.")
    }
    println("saved ${OUTPUT}")
} else {
    result.show()
}
